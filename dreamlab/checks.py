"""Options are checked when they are given: type, finiteness and range, all read off the annotations.

``steps: Annotated[int, Range(0, 10**7)]`` says it once, for the reader and for :func:`check`.
"""
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Range:
    """From ``low`` to ``high``, both included, but for an end that is ``open``: "low", "high" or "both"."""

    low: int | float = -math.inf
    high: int | float = math.inf
    open: Literal["", "low", "high", "both"] = ""

    def __contains__(self, value: int | float) -> bool:
        above = value > self.low if self.open in ("low", "both") else value >= self.low
        return above and (value < self.high if self.open in ("high", "both") else value <= self.high)

    def __str__(self) -> str:
        left, right = "(" if self.open in ("low", "both") else "[", ")" if self.open in ("high", "both") else "]"
        if self.high == math.inf:
            return f"above {self.low:.12g}" if left == "(" else f"at least {self.low:.12g}"
        return f"in {left}{self.low:.12g}, {self.high:.12g}{right}"


Count = Annotated[int, Range(1, 10**6)]
Positive = Annotated[float, Range(0, open="low")]
NotNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
Inside = Annotated[float, Range(0, 1, "both")]  # strictly
Timestep = Annotated[int, Range(0, 10**5)]
Text = Annotated[str, "may be empty"]


def wanted(kind) -> str:
    """An annotation in words: "a whole number in [1, 8192]"."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        limits = [str(m) for m in inner[1:] if isinstance(m, Range)]
        return " ".join([wanted(inner[0]), *limits])
    if origin in (Union, UnionType):
        return " or ".join(map(wanted, inner))
    if origin is tuple:
        return f"({', '.join(map(wanted, inner))})"
    if origin is dict:
        return f"a table whose values are each {wanted(inner[1])}"
    if origin is Callable or kind is Callable:
        return "a function"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", NoneType: "none"}
    return names.get(kind) or f"a {getattr(kind, '__name__', kind)}"


def fits(value, kind) -> bool:
    """Whether a value is of an annotated type, finite and in its range. A whole number is a number too; a truth is not."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin is Annotated:
        return fits(value, inner[0]) and all(value in m for m in inner[1:] if isinstance(m, Range))
    if origin in (Union, UnionType):
        return any(fits(value, k) for k in inner)
    if origin is tuple:
        return isinstance(value, tuple) and len(value) == len(inner) and all(map(fits, value, inner))
    if origin is dict:
        return isinstance(value, dict) and all(fits(k, inner[0]) and fits(v, inner[1]) for k, v in value.items())
    if origin is Callable or kind is Callable:
        return callable(value)
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    if kind in (int, bool, str):
        return type(value) is kind
    return isinstance(value, origin or kind)


def settled(value, kind):
    """A value that fits, with whole numbers as numbers where numbers are meant, so that 4 and 4.0 are one setting."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return settled(value, inner[0])
    if origin in (Union, UnionType):
        return settled(value, next((k for k in inner if fits(value, k)), Any))
    if origin is tuple and isinstance(value, tuple):
        return tuple(map(settled, value, inner))
    if origin is dict and isinstance(value, dict):
        return {k: settled(v, inner[1]) for k, v in value.items()}
    return float(value) if kind is float and type(value) is int else value


def check(name: str, value, kind) -> None:
    """ValueError that names the value, what is allowed and the mend, unless the value is of that kind."""
    if not fits(value, kind):
        shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}..."
        raise ValueError(f"{name} must be {wanted(kind)}, got {shown}: change {name}")


def check_fields(owner) -> None:
    """:func:`check` for each field of a dataclass whose annotation is a plain one; for use in ``__post_init__``."""
    hints = get_type_hints(type(owner), include_extras=True)
    for f in fields(owner):
        if f.init:
            check(f"{type(owner).__name__}.{f.name}", getattr(owner, f.name), hints[f.name])
