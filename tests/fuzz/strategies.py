"""Hypothesis strategies of valid documents, made from the schemas themselves."""

import re
from typing import Annotated, Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

from hypothesis import strategies as st
from msgspec import Meta

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ANY = st.recursive(st.none() | st.booleans() | st.integers(-(2**40), 2**40) | TEXT, st.lists, max_leaves=4)


def of(kind: Any, meta: Meta | None = None) -> st.SearchStrategy:
    """Values of a type as schemas have them, within the bounds of `meta`."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is NotRequired:
        return of(args[0])
    if origin is Annotated:
        return of(args[0], next(one for one in args[1:] if isinstance(one, Meta)))
    if is_typeddict(kind):
        hints = get_type_hints(kind, include_extras=True)
        keys = {name: of(hint) for name, hint in hints.items()}
        required = {name: keys.pop(name) for name in list(keys) if name in kind.__required_keys__}
        return st.fixed_dictionaries(required, optional=keys)
    if origin is Literal:
        return st.sampled_from(args)
    if origin is list:
        return st.lists(of(args[0]), min_size=(meta and meta.min_length) or 0, max_size=3)
    if origin is tuple:
        return st.tuples(*map(of, args)).map(list)
    if origin is dict:
        return st.dictionaries(of(args[0]), of(args[1]), min_size=(meta and meta.min_length) or 0, max_size=2)
    if origin is Union or type(kind).__name__ == "UnionType":
        return st.one_of(*map(of, args))
    return _plain(kind, meta or Meta())


def _plain(kind: Any, meta: Meta) -> st.SearchStrategy:
    if kind is int:
        return st.integers(meta.ge if meta.ge is not None else -(2**40), meta.le if meta.le is not None else 2**40)
    if kind is float:
        low = meta.ge if meta.ge is not None else meta.gt
        return st.floats(low, meta.le, exclude_min=meta.gt is not None, allow_nan=False)
    if kind is str and meta.pattern:
        return st.from_regex(meta.pattern).filter(lambda text: not re.search("[\ud800-\udfff]", text))
    return {str: TEXT, bool: st.booleans(), type(None): st.none(), Any: ANY}[kind]
