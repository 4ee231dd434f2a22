"""Tensors from safetensors files, whose names, shapes and types are checked before anything is allocated for them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from biflow.errors import UserError

FLOATS = {"F16", "BF16", "F32", "F64"}  # types of numbers as weights are kept; others are for other purposes
# Parts of names from torch.compile, DataParallel and its like, FSDP, and activation checkpointing.
WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


class Entry(NamedTuple):
    """What the header of a file says of a tensor: its shape, and its type as safetensors calls it, such as "F32"."""

    shape: tuple[int, ...]
    dtype: str


def entries(path: Path) -> dict[str, Entry]:
    """The tensors in a safetensors file, by name. Raises UserError for any other file; nothing is ever unpickled."""
    try:
        with safe_open(path, "pt") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {name: Entry(tuple(part.get_shape()), part.get_dtype()) for name, part in parts.items()}
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}.") from error
    except Exception as error:  # safetensors raises its own SafetensorError, and OSError for folders
        raise UserError(f"{path} is not a safetensors file (a pickle is never loaded): {error}") from error


def read_tensors(
    path: Path,
    expected: Mapping[str, Tensor] | None = None,
    rename: Callable[[Mapping], dict] = dict,
    *,
    what: str = "a checkpoint",
) -> dict[str, Tensor]:
    """The finite floating-point tensors in a safetensors file: those `expected`, or any if that is None.

    `rename` is applied to the names first. What the header says is checked before tensors are read. `what` is the file,
    for messages.

    Raises:
        UserError: not a safetensors file; tensors that are missing, unexpected, of another shape or type; NaN.
    """
    header = rename(entries(path))
    if expected is not None:
        _check_names(path, expected, header, what)
    for name, entry in header.items():
        if entry.dtype not in FLOATS and (expected is None or expected[name].is_floating_point()):
            raise UserError(f"{path}: {name[:80]} has numbers of the type {entry.dtype}, not floating-point ones.")
    state = rename(load_file(path))
    for name, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise UserError(f"{path}: {name[:80]} has values that are not finite: the file is damaged.")
    return state


def _check_names(path: Path, expected: Mapping[str, Tensor], header: Mapping[str, Entry], what: str) -> None:
    for name in mismatched(expected, header)[:1]:
        if name not in expected or name not in header:
            raise UserError(f"{path} is {what} of another network: {name[:80]!r} is in only one of the two.")
        shapes = f"{name} is {header[name].shape}, expected {tuple(expected[name].shape)}"
        raise UserError(f"{path} is {what} of another shape: {shapes}.")


def bare(name: str) -> str:
    """The name of a tensor without the parts that wrappers of networks put into it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def with_names(state: Mapping, rename: Callable[[str], str]) -> dict:
    """The tensors under other names; under their own ones if two would have the same."""
    renamed = {rename(name): value for name, value in state.items()}
    return renamed if len(renamed) == len(state) else dict(state)


def mismatched(expected: Mapping[str, Tensor], state: Mapping[str, Tensor | Entry]) -> list[str]:
    """The names of tensors that only one of two states has, then of those that have another shape in each."""
    alone, both = sorted(expected.keys() ^ state.keys()), sorted(expected.keys() & state.keys())
    return alone + [name for name in both if tuple(expected[name].shape) != tuple(state[name].shape)]
