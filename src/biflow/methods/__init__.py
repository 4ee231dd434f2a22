"""The methods, one file each. Whoever needs to know something about a method asks its object."""

import difflib

from biflow.errors import UserError
from biflow.methods.biflow import BIFLOW
from biflow.methods.condiff import CONDIFF
from biflow.methods.flow import FLOW
from biflow.methods.flowmap import FLOWMAP
from biflow.methods.method import Loss, Method
from biflow.methods.sequence import SEQUENCE

__all__ = ["BIFLOW", "CONDIFF", "FLOW", "FLOWMAP", "METHODS", "SEQUENCE", "Loss", "Method", "get"]

METHODS: dict[str, Method] = {method.name: method for method in (FLOW, BIFLOW, CONDIFF, FLOWMAP, SEQUENCE)}
"""By name; the paper's tables compare the first three. A method of your own joins by `METHODS["mine"] = MyMethod()`."""


def get(name: str) -> Method:
    """The method of that name. Raises UserError for an unknown one."""
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UserError(f"There is no method {name!r}; the methods are {', '.join(METHODS)}.{hint}", setting="method")
    return METHODS[name]
