"""Options are checked when they are given: type, finiteness and range, all read off the annotations.

``steps: Annotated[int, Range(0, 10**7)]`` says it once, for the reader and for :func:`check`.
"""
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from torch import Tensor


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


@dataclass(frozen=True)
class Line:
    """A text that a line can hold, with something in it unless it may be ``empty``."""

    empty: bool = False

    def __contains__(self, value: str) -> bool:
        return (self.empty or bool(value.strip())) and value.isprintable()

    def __str__(self) -> str:
        return "of one line" if self.empty else "of one line that is not empty"


Name = Annotated[str, Line()]
Text = Annotated[str, Line(empty=True)]
Count = Annotated[int, Range(1, 10**6)]
LARGEST = 1e9  # of any number: beyond it float32 overflows within a few products
Positive = Annotated[float, Range(0, open="low")]
NotNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
Inside = Annotated[float, Range(0, 1, "both")]  # strictly
Timestep = Annotated[int, Range(0, 10**5)]


def wanted(kind) -> str:
    """An annotation in words: "a whole number in [1, 8192]"."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        limits = [str(m) for m in inner[1:] if isinstance(m, Range | Line)]
        return " ".join([wanted(inner[0]), *limits])
    if origin in (Union, UnionType):
        return " or ".join(map(wanted, inner))
    if origin is tuple and inner[1:] == (...,):
        return f"a list, each of it {wanted(inner[0])}"
    if origin is tuple:
        return f"({', '.join(map(wanted, inner))})"
    if origin is dict:
        return f"a table whose values are each {wanted(inner[1])}"
    if origin in (list, Sequence):
        return f"a list, each of it {wanted(inner[0])}"
    if origin is Callable or kind is Callable:
        return "a function"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", NoneType: "none"}
    name = getattr(kind, "__name__", str(kind))
    return names.get(kind) or f"a{'n' * (name[0] in 'AEIOU')} {name}"


def fits(value, kind) -> bool:
    """Whether a value is of an annotated type and in its range. A whole number is a number too; a truth is not."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin is Annotated:
        return fits(value, inner[0]) and all(value in m for m in inner[1:] if isinstance(m, Range | Line))
    if origin in (Union, UnionType):
        return any(fits(value, k) for k in inner)
    if origin is tuple and inner[1:] == (...,):
        return isinstance(value, tuple) and len(value) > 0 and all(fits(v, inner[0]) for v in value)
    if origin is tuple:
        return isinstance(value, tuple) and len(value) == len(inner) and all(map(fits, value, inner))
    if origin is dict:
        return isinstance(value, dict) and all(fits(k, inner[0]) and fits(v, inner[1]) for k, v in value.items())
    if origin in (list, Sequence):
        return isinstance(value, origin) and all(fits(v, inner[0]) for v in value)
    if origin is Callable or kind is Callable:
        return callable(value)
    if kind is float:
        return isinstance(value, int | float) and type(value) is not bool and abs(value) <= LARGEST  # so no NaN either
    if kind in (int, bool, str):
        return type(value) is kind
    return isinstance(value, origin or kind) and not (isinstance(value, Tensor) and unbound(value))


def unbound(tensor: Tensor) -> int:
    """How many of its values are not finite."""
    return 0 if tensor.is_meta else tensor.numel() - int(tensor.isfinite().sum())


def finite(tensor: Tensor, who: str, mend: str) -> Tensor:
    """The tensor itself. ValueError, "``who`` 3 of 8 values that are not finite: ``mend``", where that is so."""
    if not (tensor.is_meta or tensor.isfinite().all()):
        raise ValueError(f"{who} {unbound(tensor)} of {tensor.numel()} values that are not finite: {mend}")
    return tensor


def settled(value, kind):
    """A value that fits, with whole numbers as numbers where numbers are meant, so that 4 and 4.0 are one setting."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return settled(value, inner[0])
    if origin in (Union, UnionType):
        return settled(value, next((k for k in inner if fits(value, k)), Any))
    if origin is tuple and isinstance(value, tuple):
        return tuple(map(settled, value, inner[:1] * len(value) if inner[1:] == (...,) else inner))
    if origin is dict and isinstance(value, dict):
        return {k: settled(v, inner[1]) for k, v in value.items()}
    return float(value) if kind is float and isinstance(value, int | float) else value


def shown(value) -> str:
    """A value in a line of an error, however long or odd it is."""
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} of {value.dtype}" + (f", {n} values not finite" if (n := unbound(value)) else "")
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python writes no whole number of more than 4300 digits
        text = f"a number of {value.bit_length()} bits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def check(name: str, value, kind, mend: str = "") -> None:
    """ValueError that names the value, what is allowed and the mend, unless the value is of that kind."""
    if not fits(value, kind):
        for table in (k for k in (kind, *get_args(kind)) if get_origin(k) is dict and fits(value, dict[str, Any])):
            for key, entry in value.items():  # which of them is wrong
                check(f"{name}.{key}", entry, get_args(table)[1])
        large = any(type(x) in (int, float) and abs(x) > LARGEST for x in (value if isinstance(value, tuple) else (value,)))
        most = f", no number is above {LARGEST:.0f}" if large and "number in" not in wanted(kind) else ""
        raise ValueError(f"{name} must be {wanted(kind)}, got {shown(value)}: {mend or f'change {name}'}{most}")


def check_fields(owner) -> None:
    """:func:`check` for each field of a dataclass whose annotation is a plain one; for use in ``__post_init__``."""
    hints = get_type_hints(type(owner), include_extras=True)
    for f in fields(owner):
        if f.init:
            check(f"{type(owner).__name__}.{f.name}", getattr(owner, f.name), hints[f.name])


def checked(function: Callable) -> Callable:
    """The function, which :func:`check`-s what it is given against its annotations first."""
    parameters = inspect.signature(function)

    @wraps(function)
    def inner(*args, **kwargs):
        hints = get_type_hints(function, include_extras=True)
        for name, value in parameters.bind(*args, **kwargs).arguments.items():
            if name in hints:
                check(name, value, hints[name])
        return function(*args, **kwargs)

    return inner
