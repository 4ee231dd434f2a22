"""Clips in, pairs of frames out: find and read clips, prepare them once, train from the memory map."""

import importlib

_WHERE = {
    "FramePairs": "pairs",
    "is_prepared": "pairs",
    "pair_order": "pairs",
    "find_clips": "clips",
    "prepare": "prepare",
    "prepared": "prepare",
    "fetch": "fetch",
    "DATASETS": "published",
}
__all__ = sorted(_WHERE)  # noqa: PLE0605


def __getattr__(name: str):
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
