"""No option is silent: each changes the run, or is an error that says where it would belong."""
import hashlib
from functools import cache, partial

import pytest
from zoo import pyramid

from dreamlab.cameras import LucidOrbit, ring
from dreamlab.learner import Adam
from dreamlab.losses import Smooth
from dreamlab.methods import METHODS
from dreamlab.pipeline import Part
from dreamlab.priors.diffusion import BOTH, BUNDLED, DiffusionPrior
from dreamlab.prompts import Condition, ViewPrompts
from dreamlab.rules import RULES, VSD
from dreamlab.scenes.growth import Growth
from dreamlab.schedules import Annealed, Cosine, Grid, balanced
from dreamlab.settings import CHOICES, assignment, describe, difference, flat, name_of, options
from dreamlab.stage import advance, make_optimiser
from dreamlab.viewpoints import Circle

# An unlikely value where no rule of thumb gives one; the second where the first is what it is already
UNLIKELY = {
    "start": ("ball", "blob"), "start.prior": "nowhere", "start.finest": 48, "start.levels": 2, "rule": ("NFSD", "SDS"),
    "rule.grid": Grid(points=77), "rule.grid.start": 900, "rule.weight": ("one", "sigma2"),
    "rule.operator": "LinearOperator", "rule.critic": ("identity", "lora"), "rule.critic.base": "toybox-normals",
    "prior": "nowhere",
    "look": ("latents", "rgb"), "timesteps": "DreamTime", "timesteps.start_max": 777, "timesteps.end_max": 222,
    "timesteps.t_min": 7, "timesteps.since": 0.01, "prompts": partial(ViewPrompts, null="a blue duck"),
    "prompts.null": "a blue duck", "prompts.negative": "a blue duck", "cameras": ("LucidOrbit", "Orbit"),
    "cameras.fov_deg": (20.0, 33.0), "cameras.wider": 1.5, "growth": ("Growth", "none"), "growth.since": 13, "growth.until": 77,
    "growth.wide_since": 11, "rates": {"means": 0.123}, "optimiser": Adam(betas=(0.5, 0.6)), "optimiser.betas": (0.1, 0.2),
    "decay": "Exponential", "regularise": ("Smooth", "none"), "steps": 7, "views": 3, "resolution": 24}


def unlikely(path: str, value):
    found = UNLIKELY.get(path)
    if isinstance(found, tuple) and isinstance(found[0], str):
        return found[1] if value is not None and name_of(value) == found[0] else found[0]
    if found is not None:
        return found
    if path.startswith("rates."):
        return 0.0123
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 3
    if isinstance(value, float):
        return value * 0.9 if value else 0.125
    return tuple(x + 0.5 for x in value) if isinstance(value, tuple) else 0.03  # where it is none


def paths(thing, before: str = "") -> list[tuple[str, object]]:
    """Every option of an object and of those in it: path and value."""
    if isinstance(thing, dict):
        return [(f"{before}{key}", value) for key, value in thing.items()]
    found = []
    for name, (_, value) in options(thing).items():
        found += [(f"{before}{name}", value), *paths(value, f"{before}{name}.")]
    return found


@cache
def prior(name: str) -> DiffusionPrior:
    return DiffusionPrior.load(name)


def digest(tensors) -> str:
    tensors = [part for x in tensors for part in (x.tensors.values() if isinstance(x, Condition) else [x])]
    return hashlib.sha256(b"".join(x.detach().float().contiguous().numpy().tobytes() for x in tensors)).hexdigest()


def plan(part: Part) -> dict:
    """All that a run of a part consists of: the stage that it builds, leaves and learners and prompts included."""
    stage = part.build("a red mug", prior(part.prior) if part.prior.split(BOTH)[0] in BUNDLED else None)
    rule, prompt = stage.rule, stage.prompts(ring(5))
    critic = getattr(rule, "critic", None)
    learner = getattr(rule, "learner", None) or getattr(critic, "learner", None)
    return {
        "scene": type(stage.scene).__name__, "leaves": digest(stage.scene.parameters().values()),
        "config": repr(stage.scene.config()), "state": digest(rule.state_dict().values()),
        "rule": {k: repr(v)[:200] for k, v in vars(rule).items() if k not in ("learner", "critic")},
        "critic": (type(critic), getattr(getattr(critic, "base", None), "card", None)),
        "rate": learner and learner.optimizer.param_groups[0]["lr"],
        "prompt": digest([prompt.positive, prompt.null, prompt.negative, *(y for pair in prompt.perp for y in pair)]),
        **{name: repr(getattr(stage, name)) for name in (
            "timesteps", "rates", "decay", "look", "regularise", "growth", "cameras", "steps", "views", "resolution",
            "optimiser")}}


SMALL = {"points": {"start.points": 60}, "ball": {"start.points": 60}, "blob": {"start.samples": 8, "start.levels": 3},
         "latents": {"start.pictures": 2}, "pixels": {"start.pictures": 2},
         "cost_volume": {"start.viewpoints": Circle(), "start.samples": 8, "start.levels": 3},
         "latent_blob": {"start.samples": 8, "start.levels": 3}, "given": {"start.file": pyramid(), "start.levels": 3}}


def small(name: str) -> Part:
    """A small part of a method that has every kind of object that its scene may have."""
    part = next(iter(METHODS[name].toy.values()))
    near = LucidOrbit(radius=(2.3, 2.5), nearest=(2.0, 2.2))
    more = {} if part.scene.dimensions == 2 else {"cameras": near, "resolution": 16}
    if name_of(part.start) in ("points", "ball"):
        more |= {"growth": Growth(since=1, until=90, every=7), "regularise": Smooth(1.0, 1.0)}
    return part.set(SMALL[name_of(part.start)] | more)


ONE_PART = [name for name, method in METHODS.items() if len(method.toy) == 1]
CASES = [(name, path, value) for name in ONE_PART for path, value in paths(small(name))
         if name != "one-2-3-45" or path.startswith("start.")]  # which takes seconds to begin, and is not distilled


@pytest.mark.parametrize("name, path, value", CASES, ids=[f"{name}-{path}" for name, path, _ in CASES])
def test_an_option_changes_the_run_or_is_an_error(name, path, value):
    part, new = small(name), unlikely(path, value)
    try:
        changed = plan(part.set({path: new}))
    except (ValueError, FileNotFoundError) as error:
        assert "\n" not in str(error)  # another start may meet objects that do not suit its scene, and then names those
        assert path == "start" or path.split(".")[-1] in str(error) or str(new) in str(error), str(error)
        return
    before = unchanged(name)
    assert changed != before, f"{path} = {new!r} changes nothing"


@cache
def unchanged(name: str) -> dict:
    return plan(small(name))


def test_a_plan_that_is_built_twice_is_the_same():
    """The comparison above can fail: it sees no difference where there is none."""
    for name in ("dreammapping", "field", "text2image"):
        assert plan(small(name)) == unchanged(name)


@pytest.mark.parametrize("rule", RULES)
def test_each_option_of_each_rule_changes_the_run(rule):
    part = METHODS["text2image"].toy["pictures"].set({"rule": rule, "start.pictures": 2})
    part = part.set({"rule.pretrain": 0}) if rule == "LMCSDS" else part  # it samples the prior for each plan otherwise
    before = plan(part)
    for path, value in paths(part.rule, "rule."):
        if path == "rule.pretrain":
            continue
        assert plan(part.set({path: unlikely(path, value)})) != before, path


def test_what_an_option_that_does_not_apply_says():
    """Where it would belong, or what is to be chosen first."""
    toy = METHODS["dreammapping"].toy["shape"]
    for changes, says in (
            ({"rule": "SDS", "rule.cutoff": 5},
             "SDS has no 'cutoff', it has guidance, weight, rescale; cutoff belongs to VDM, NFSD"),
            ({"cutoff": 5}, "no 'cutoff'.*it is rule.cutoff"),
            ({"start.levels": 2}, "points has no 'levels'.*levels belongs to blob"),
            ({"growth.every": 5}, "growth is none, so growth.every belongs to nothing.*growth=Growth"),
            ({"regularise.tv": 1.0}, "regularise is none.*regularise=Smooth"),
            ({"rule": "APFO", "steps": 50}, "APFO runs at its own timesteps.*set the options of rule.grid"),
            ({"timesteps": "Grid", "steps": 50}, "steps are the grid's 200, got 50"),
            ({"timesteps": "Annealed", "timesteps.m1": 5.0}, "Annealed has no 'm1'.*m1 belongs to DreamTime"),
            ({"prompts.negative": "ugly"}, "prompts.negative is read by CSD and NFSD, and not by VDM"),
            ({"prompts.views": False, "prompts.interpolate": True}, "interpolate"),
            ({"rule": "LODS", "prompts.perp_neg": True}, "LODS"),
            ({"rates.colours": 0.1}, "rates name colours"),
            ({"steps.more": 1}, "steps has no options"),
            ({"look": "latents"}, "not made of latents")):
        with pytest.raises(ValueError, match=says):
            made = toy.set({"start.points": 60} | changes).build("a red mug", prior("toybox"))
            advance(made, make_optimiser(made), 0)
    for changes, says in (({"views": 4}, "views must be none for a Picture"), ({"cameras": "Orbit"}, "cameras must be none"),
                          ({"resolution": 64}, "resolution must be none"), ({"growth": "Growth"}, "growth must be none")):
        with pytest.raises(ValueError, match=says):
            METHODS["text2image"].toy["pictures"].set(changes)


def test_settings_are_the_same_from_shell_toml_and_python():
    toy = METHODS["dreammapping"].toy["shape"]
    shell = toy.set(dict(map(assignment, ["rule=VSD", "rule.guidance=4", "rule.critic_rate=1e-3", "rates.means=[0.1, 0.01]",
                                          "timesteps=Grid", "timesteps.points=50", "growth=Growth", "growth.reset=none"])))
    toml = toy.set(flat({"rule": {"guidance": 4}, "rates": {"means": [0.1, 0.01]}} | {
        "rule": "VSD", "rule.guidance": 4, "rule.critic_rate": 1e-3, "timesteps": "Grid", "timesteps.points": 50,
        "growth": "Growth", "growth.reset": "none", "rates": {"means": [0.1, 0.01]}}))
    python = toy.set({"rule": partial(VSD.for_prior, guidance=4.0, weight=balanced, critic_rate=1e-3),
                      "rates": toy.rates | {"means": (0.1, 0.01)}, "timesteps": Grid(points=50), "growth": Growth(reset=None)})
    assert describe(shell) == describe(toml) == describe(python)
    assert difference(describe(shell), describe(toy)).keys() >= {"rule.is", "rule.guidance", "rates.means", "growth.is"}


def test_a_choice_takes_over_what_both_have():
    toy = METHODS["dreammapping"].toy["shape"]
    for rule in RULES:
        chosen = options(toy.set(rule=rule).rule)
        for name in ("guidance", "weight"):
            if name in chosen and chosen[name][1] is not None:
                assert chosen[name][1] == toy.rule.keywords[name], (rule, name)
    assert toy.set(rule="APFO").rule.keywords == {"guidance": 3.0}  # its weight is its grid's
    assert toy.set(start="blob").rates is None and toy.set(start="ball").rates == toy.rates
    assert toy.set(decay="constant").decay(3, 10) == 1.0


def test_every_choice_can_be_made_by_its_name():
    toy = METHODS["dreammapping"].toy["shape"]
    assert name_of(toy.set({"decay": "Exponential", "decay.final": 0.5}).decay) == "Exponential"
    assert isinstance(toy.set(timesteps=Annealed(900, 100)).timesteps, Annealed) and isinstance(toy.decay, Cosine)
    for slot, choices in CHOICES.items():
        assert len({str(describe(choice)) for choice in choices.values()}) == len(choices), f"two of {slot} have one tag"
        for name, choice in choices.items():
            assert name_of(choice) == name or slot in ("operator", "start", "rule"), (slot, name)
            assert describe(choice)["is"]


def test_numbers_that_are_the_same_are_one_setting():
    ask = METHODS["dreammapping"].ask
    tags = {ask("a red mug", changes={"rule.guidance": s}).tag("shape") for s in (4, 4.0)}
    assert len(tags) == 1 and ask("a red mug", changes={"rule.guidance": 3}).tag("shape") == ask("a red mug").tag("shape")
