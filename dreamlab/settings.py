"""Settings: what may be chosen, by which names, from Python, TOML and the shell alike; and what a choice is called in a file.

Whatever is made later, once prompt and prior are known, is a ``functools.partial``: its options are the keyword-only parameters
of the function, or the fields with a default of the dataclass that it makes. Everything else is a frozen dataclass.
"""
import inspect
import json
import tomllib
from dataclasses import MISSING, fields, is_dataclass, replace
from functools import partial
from typing import Any, get_type_hints

from dreamlab import rules
from dreamlab.cameras import ORBITS
from dreamlab.checks import check, settled, shown, wanted
from dreamlab.learner import Adam
from dreamlab.losses import Orientation, Smooth, Sparse, Surface
from dreamlab.priors.critic import CRITICS
from dreamlab.prompts import ViewPrompts
from dreamlab.scenes import STARTS
from dreamlab.scenes.base import own
from dreamlab.scenes.growth import Growth
from dreamlab.schedules import CURVES, TIMESTEPS, WEIGHTS
from dreamlab.stage import LOOKS
from dreamlab.toybox.dataset import backgrounds, grey
from dreamlab.viewpoints import LISTS

# What the name of a field may be set to by a name. A new rule or scene comes in through its own list.
CHOICES: dict[str, dict[str, Any]] = {
    "start": {name: partial(start) for name, start in STARTS.items()},
    "rule": {name: partial(getattr(rules, name).for_prior) for name in rules.RULES},
    "timesteps": TIMESTEPS, "grid": {"Grid": TIMESTEPS["Grid"]}, "weight": WEIGHTS, "operator": rules.OPERATORS,
    "prompts": {"ViewPrompts": partial(ViewPrompts)}, "look": LOOKS, "cameras": ORBITS, "growth": {"Growth": Growth()},
    "decay": CURVES, "optimiser": {"Adam": Adam()}, "background": {"backgrounds": backgrounds, "grey": grey, "own": own},
    "regularise": {loss.__name__: loss() for loss in (Smooth, Orientation, Sparse, Surface)},
    "critic": {name: partial(critic) for name, critic in CRITICS.items()}, "viewpoints": LISTS,
}
GIVEN = {"seed"}  # by the run, never by settings
# Options that are younger than stored results, at the values that make the runs of before: their tags stay what they were
ADDED = [("SDS", "rescale", 0.0), ("Sparse", "opaque", 0.0), ("Sparse", "since", 0.0), ("cost_volume", "fov_deg", 40.0),
         *((rule, "critic", {"is": "lora", "base": None, "camera": False}) for rule in ("VSD", "ASD"))]


def owner(thing: partial) -> Any:
    """The class whose ``for_prior`` a partial calls, or the function or class itself."""
    bound = getattr(thing.func, "__self__", None)
    return bound if inspect.isclass(bound) else thing.func


def options(thing) -> dict[str, tuple[Any, Any]]:
    """What can be set of an object: name -> (annotation, value)."""
    if not isinstance(thing, partial):
        if not is_dataclass(thing):
            return {}
        hints = get_type_hints(type(thing), include_extras=True)
        return {f.name: (hints[f.name], getattr(thing, f.name)) for f in fields(thing) if f.init}
    maker, found = owner(thing), {}
    if is_dataclass(maker):
        hints = get_type_hints(maker, include_extras=True)
        for f in fields(maker):
            if f.init and (f.default, f.default_factory) != (MISSING, MISSING):
                found[f.name] = hints[f.name], f.default if f.default is not MISSING else f.default_factory()
    if not inspect.isclass(thing.func):
        hints = get_type_hints(thing.func, include_extras=True)
        for name, p in inspect.signature(thing.func).parameters.items():
            if p.kind is p.KEYWORD_ONLY:
                found[name] = hints.get(name, Any), None if p.default is p.empty else p.default
    return {name: (kind, thing.keywords.get(name, value)) for name, (kind, value) in found.items() if name not in GIVEN}


def name_of(thing) -> str:
    """What an object is called in a table: the name of its class or function."""
    if isinstance(thing, partial):
        return owner(thing).__name__
    return getattr(thing, "__name__", None) or type(thing).__name__


def validate(thing, where: str) -> None:
    """ValueError for an option that the maker of a partial does not have, or for a value that does not fit it."""
    known = options(thing)
    if thing.args:
        raise ValueError(f"{where} takes its options by name, got {thing.args!r}: write name=value")
    for name, value in thing.keywords.items():
        if name not in known:
            raise ValueError(unknown(where, name, thing))
        check(f"{where}.{name}", value, known[name][0])


def unknown(where: str, name: str, thing) -> str:
    """What to say of an option that is not there: what is, and where it would belong."""
    slot = where.rpartition(".")[2]
    others = [other for other, choice in CHOICES.get(slot, {}).items() if name in options(choice)]
    inside = [f"{where}.{key}" if where else key for key, (_, value) in options(thing).items() if name in options(value)]
    belongs = f"; {name} belongs to {', '.join(others)}" if others else f"; it is {', '.join(f'{x}.{name}' for x in inside)}" \
        if inside else ""
    has = ", ".join(options(thing)) or "no options"
    who = f"{where} = {name_of(thing)}" if where else "a part"
    return f"{who} has no {shown(name)}, it has {has}{belongs}: change the name"


def put(thing, path: list[str], value, where: str = ""):
    """``thing`` with the option at ``path`` set, objects by their names; its other options stay.

    Another object in the place of one takes over the options that both have, but for those that are None unless they are
    given. ValueError for a name or value that does not belong there.
    """
    if isinstance(thing, dict):
        if len(path) > 1:
            raise ValueError(f"{where}.{path[0]} has no options, got {'.'.join(path[1:])!r}: set {where}.{path[0]} itself")
        return thing | {path[0]: plain(value)}
    new = {path[0]: chosen(options(thing), path, value, where, thing)}
    return partial(thing.func, **thing.keywords | new) if isinstance(thing, partial) else replace(thing, **new)


def chosen(known: dict[str, tuple[Any, Any]], path: list[str], value, where: str, thing):
    """What the first option of ``path`` becomes, one of the ``known`` options of ``thing``."""
    name, *rest = path
    here = f"{where}.{name}" if where else name
    if name not in known:
        raise ValueError(unknown(where, name, thing))
    kind, old = known[name]
    if rest and old is None:
        raise ValueError(f"{here} is none, so {'.'.join([here, *rest])} belongs to nothing, got {shown(value)}: choose one "
                         f"first, {here}={' or '.join(CHOICES.get(name, {})) or wanted(kind)}")
    if rest and not (options(old) or isinstance(old, dict)):
        raise ValueError(f"{here} has no options, got {'.'.join(rest)!r}: set {here} itself")
    new = put(old, rest, value, here) if rest else choose(here, name, kind, old, value)
    check(here, new, kind, f"choose one of {', '.join(CHOICES[name])}" if name in CHOICES and not rest else "")
    if isinstance(new, partial):
        validate(new, here)
    return settled(new, kind)


def choose(where: str, slot: str, kind, old, value):
    """A value as it is given: a name is looked up, "none" is None, lists are tuples."""
    choices = CHOICES.get(slot, {})
    if isinstance(value, str) and value == "none" and kind is not str:
        return None
    if not (isinstance(value, str) and choices):
        return plain(value)
    if value not in choices:
        raise ValueError(f"there is no {slot} {shown(value)}; there is: {', '.join(choices)}: change {where}")
    new = choices[value]
    if not isinstance(new, partial) or not isinstance(old, partial):
        return new
    return old if owner(new) is owner(old) else keep(new, **old.keywords)


def keep(thing: partial, **values) -> partial:
    """``thing`` with those of the values whose options it has, but for options that it makes up itself (None by default)."""
    known = options(thing)
    return partial(thing.func, **thing.keywords | {k: v for k, v in values.items() if k in known and known[k][1] is not None})


def plain(value):
    """TOML's lists as tuples, also those inside tables."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return tuple(map(plain, value)) if isinstance(value, list) else value


def flat(table: dict, before: str = "") -> dict[str, Any]:
    """Nested tables as paths: {"rule": {"guidance": 4}} -> {"rule.guidance": 4}; an object comes before its options.

    ValueError for a path that is there twice.
    """
    found = {}
    for key, value in table.items():
        new = flat(value, f"{before}{key}.") if isinstance(value, dict) and value else {f"{before}{key}": value}
        for path in found.keys() & new.keys():
            raise ValueError(f"{path} is set twice, to {shown(found[path])} and {shown(new[path])}: remove one")
        found |= new
    return dict(sorted(found.items(), key=lambda pair: pair[0].count("."))) if not before else found


def assignment(text: str) -> tuple[str, Any]:
    """"nerf.rule.guidance=4" -> ("nerf.rule.guidance", 4): values as in TOML, and a bare word is a text."""
    path, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set takes PATH=VALUE such as rule.guidance=4, got {shown(text)}: write it so")
    try:
        found = tomllib.loads(f"value = {value}")
    except (ValueError, RecursionError):  # a number of thousands of digits, brackets by the thousand
        found = {}
    return path.strip(), found["value"] if found.keys() == {"value"} else value.strip()


def describe(thing) -> Any:
    """An object as JSON can hold it: {"is": its name} and its options, all but those that are as before they were added."""
    if isinstance(thing, dict):
        return {key: describe(value) for key, value in thing.items()}
    if isinstance(thing, tuple | list):
        return [describe(value) for value in thing]
    if thing is None or isinstance(thing, str | int | float):
        return thing
    kind, found = name_of(thing), {name: describe(value) for name, (_, value) in options(thing).items()}
    return {"is": kind} | {name: value for name, value in found.items() if (kind, name, value) not in ADDED}


def difference(mine, others) -> dict[str, Any]:
    """What one description has otherwise than another, by path."""
    a, b = (flat(json.loads(json.dumps(x))) for x in (mine, others))
    return {key: a.get(key) for key in sorted(a.keys() | b.keys()) if (key in a) != (key in b) or a[key] != b[key]}
