"""A stand-in, to be replaced by the real module: what evaluation has to know of the methods."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """How a method is called, and whether it takes a noise level."""

    name: str
    title: str
    takes_eps: bool


METHODS: dict[str, Method] = {
    "flow": Method("flow", "FLOW", False),
    "biflow": Method("biflow", "BI-FLOW", True),
    "condiff": Method("condiff", "CONDIFF", False),
}
