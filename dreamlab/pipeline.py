"""A method is a list of parts: each a stage that may start from what an earlier part has made, in one folder, resumable."""
import hashlib
import inspect
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from dreamlab import scenes
from dreamlab.cameras import Orbit, Rings, ring
from dreamlab.checks import Name, Range, check, check_fields, checked, shown
from dreamlab.files import sweep_strays
from dreamlab.learner import Adam
from dreamlab.losses import Orientation, Smooth, Sparse, Surface
from dreamlab.noise import Seed, seeded, stream, subseed
from dreamlab.pictures import load_picture
from dreamlab.priors.base import Prior
from dreamlab.priors.diffusion import HUB, DiffusionPrior, card_of, usual_device
from dreamlab.prompts import ViewPrompts
from dreamlab.rules.base import Rule
from dreamlab.scenes.base import Begin, Scene
from dreamlab.scenes.growth import Growth
from dreamlab.scenes.textured import read as read_mesh
from dreamlab.schedules import Timesteps, constant
from dreamlab.settings import chosen, describe, difference, name_of, options, owner, validate
from dreamlab.stage import Pixels, Rate, Stage, Step, Steps, Views, check_knots, read, rgb, run
from dreamlab.threads import sharing
from dreamlab.toybox.dataset import backgrounds

TIERS = ("toy", "paper")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One stage of a method, before prompt, prior and seed are known. Every field is checked when it is made.

    ``start`` makes the scene, ``rule`` the rule, ``prompts`` the prompts: partials, whose options are settings too. What is
    None: ``timesteps`` and ``steps`` are those of the rule or the grid; ``cameras`` those that the prior was trained on, or of
    a picture none; ``rates`` the scene's own, by group of leaves (a group that is left out stays as it is); ``views`` and
    ``resolution`` those of pictures.
    """

    start: partial
    rule: partial
    timesteps: Timesteps | None = None
    prompts: partial = partial(ViewPrompts)
    prior: Name = "sd-2.1-base"
    look: Callable = rgb
    cameras: Orbit | None = None
    growth: Growth | None = None
    rates: dict[str, Rate] | None = None
    optimiser: Adam = Adam()
    decay: Callable = constant
    regularise: Smooth | Orientation | Sparse | Surface | None = None
    background: Callable = backgrounds
    steps: Steps | None = None
    views: Views | None = None
    resolution: Pixels | None = None

    def __post_init__(self):
        check_fields(self)
        check_knots(self.rates or {})
        for name in ("start", "rule", "prompts"):
            validate(getattr(self, name), name)
        if not (inspect.isclass(made := owner(self.rule)) and issubclass(made, Rule)):
            raise ValueError(f"rule must be a partial of a Rule's for_prior, got {shown(self.rule)}: choose a rule by its name")
        own = getattr(owner(self.rule), "timesteps", None) is not None
        if own and (self.timesteps, self.steps) != (None, None):
            raise ValueError(f"{owner(self.rule).__name__} runs at its own timesteps, as many steps as they are, got timesteps "
                             f"{self.timesteps} and steps {self.steps}: leave both out, and set the options of rule.grid")
        if not own and self.timesteps is None:
            raise ValueError(f"{owner(self.rule).__name__} needs timesteps, got none: give such as timesteps=Annealed")
        counted = own or hasattr(self.timesteps, "steps")
        if not counted and self.steps is None:
            raise ValueError(f"steps must be a whole number with timesteps {self.timesteps}, got none: give such as steps=200")
        if counted and self.steps is not None:
            raise ValueError(f"steps are the grid's {self.timesteps.steps}, got {self.steps} besides: leave steps out, and set "
                             "points and views of the grid")
        kind = self.scene
        if kind.rates and self.rates and (other := self.rates.keys() - kind.rates.keys()):
            raise ValueError(f"rates name {', '.join(sorted(other))}, and a {kind.__name__} has {', '.join(kind.rates)}: "
                             "change rates")
        if kind.dimensions == 2 and self.background is not backgrounds:
            raise ValueError(f"background is nothing to a {kind.__name__}, got {shown(self.background)}: leave background out")
        for name in ("cameras", "views", "resolution", "growth") if kind.dimensions == 2 else ():
            if (value := getattr(self, name)) is not None:
                raise ValueError(f"{name} must be none for a {kind.__name__}, which has no sides and a size of its own, got "
                                 f"{value}: leave {name} out")

    @property
    def scene(self) -> type:
        """The class of scene that ``start`` says it makes."""
        return made_by(self.start)

    def set(self, changes: dict[str, Any] | None = None, **more) -> "Part":
        """This part with other settings: fields by name, ``steps=60``, or anything inside them by its path,
        ``{"rule.guidance": 4, "start": "ball"}``, in that order. ValueError for what does not belong there.

        What goes with a choice goes with it, unless it is given too: another scene brings its own rates, and a rule or grid
        that says at which timesteps it runs its own steps.
        """
        check("changes", changes, dict[str, Any] | None)
        changes = (changes or {}) | more
        hints = get_type_hints(type(self), include_extras=True)
        draft = {f.name: getattr(self, f.name) for f in fields(self)}
        for path, value in changes.items():
            if not all(names := path.split(".")):
                raise ValueError(f"a setting is named as in rule.guidance, got {shown(path)}: change the name")
            if names[0] == "rates" and names[1:] and draft["rates"] is None:
                draft["rates"] = dict(made_by(draft["start"]).rates)
            new = chosen({name: (hints[name], draft[name]) for name in draft}, names, value, "", self)
            follow = []
            if path == "start" and made_by(new) is not made_by(draft["start"]):
                follow = ["rates"]
            elif path == "rule" and getattr(owner(new), "timesteps", None) is not None:
                follow = ["timesteps", "steps"]
            elif path == "timesteps" and hasattr(new, "steps"):
                follow = ["steps"]
            draft |= {names[0]: new} | {name: None for name in follow if name not in changes}
        return replace(self, **draft)

    @checked
    def build(self, prompt: str, prior: Prior | None = None, seed: Seed = 0,
              earlier: Callable[[str], Scene] | None = None, begun: Scene | None = None) -> Stage:
        """The stage, ready to :func:`dreamlab.stage.run`.

        ``prior`` saves loading it again, and the scene goes where it is; ``earlier`` gives the scenes of earlier parts;
        ``begun`` is what ``start`` made when this stage was built before. The prompts are embedded here, so that a text too
        long is found out before any work. ValueError where the run wants a GPU, or its kernels, and there are none.
        """
        prior = prior or load_prior(self)
        with sharing(prior.device):  # the same bits for any number of threads
            return self._build(prompt, prior, seed, earlier or alone, begun)

    def _build(self, prompt: str, prior: Prior, seed: int, earlier: Callable[[str], Scene], begun: Scene | None) -> Stage:
        prompts = self.prompts(prior, prompt)
        rule = self.rule(prior, seed=seed)
        check_prompts(prompts, rule)
        begin = Begin(prompt, prior, stream(seed, "start"), earlier)
        scene = (begun or self.start(begin)).to(prior.device)
        rates, leaves = scene.rates if self.rates is None else self.rates, scene.parameters()
        other = rates.keys() - {name.split(".")[0] for name in leaves}
        if other := {name for name in other if rates[name] != scene.rates.get(name)}:  # a class may have more than its scene
            raise ValueError(f"rates name {', '.join(sorted(other))}, and the scene has only {', '.join(leaves)}: change rates")
        flat = scene.dimensions == 2
        timesteps = self.timesteps or rule.timesteps
        return Stage(
            scene, prior, rule, prompts, timesteps, {n: rates[n.split(".")[0]] for n in leaves if n.split(".")[0] in rates},
            decay=self.decay, look=self.look, regularise=self.regularise, growth=replace(self.growth) if self.growth else None,
            cameras=None if flat else self.cameras or usual_cameras(prior), optimiser=self.optimiser, seed=seed,
            steps=timesteps.steps if self.steps is None else self.steps, views=self.views or scene.together,
            resolution=self.resolution, **{} if flat else {"background": self.background})


def usual_cameras(prior: Prior) -> Orbit:
    """Those that a prior was trained on, in rings if it sees several views together."""
    views = prior.card.views or Orbit()
    return views if prior.joined == 1 else Rings(**{f.name: getattr(views, f.name) for f in fields(Orbit)}, joined=prior.joined)


def made_by(start: partial) -> type:
    """The class of scene that a start says it makes. ValueError for what says none."""
    kind = get_type_hints(start.func).get("return")
    if not (inspect.isclass(kind) and Scene in kind.__mro__):
        raise ValueError(f"start must be a partial of a function that says which scene it returns, got {shown(start)}: "
                         "choose a start by its name")
    return kind


def alone(name: str) -> Scene:
    raise ValueError(f"there is no earlier part {name!r} to start from: start.of names one that stands before in the method")


def check_prompts(prompts: ViewPrompts, rule) -> None:
    """ValueError for a text that is too long, or for a condition that the rule would pass over."""
    asked, who = prompts(ring(4)), type(rule).__name__
    if asked.negative is not asked.null and not rule.reads_negative:
        raise ValueError(f"prompts.negative is read by CSD and NFSD, and not by {who}, got {prompts.negative!r}: leave it out, "
                         "or set prompts.null, which guidance pushes away from")
    if asked.perp and not rule.reads_perp:
        raise ValueError(f"prompts.perp_neg moves the guided prediction, and {who} has none, got true: choose another rule, or "
                         "leave it out")


def check_machine(part: Part) -> None:
    """ValueError, before anything is fetched, for a run that this machine would not finish."""
    if part.scene.dimensions == 2:
        return
    if usual_device(part.prior) == "cuda":
        if (kernels := part.scene.kernels) and not find_spec(kernels):
            raise ValueError(f'on a GPU this run draws with {kernels}, which is not installed: pip install -e ".[cuda]"')
    elif part.prior in HUB or not card_of(part.prior).world and (part.resolution or 0) >= 256:
        raise ValueError(f"{part.steps} steps of {part.views} views with {part.resolution} pixels under the prior {part.prior} "
                         "need a CUDA GPU, and there is none here: choose the prior toybox, which runs on any machine")


def load_prior(part: Part) -> Prior:
    """The part's prior, where such a prior runs. ValueError where this machine would not finish."""
    check_machine(part)
    return DiffusionPrior.load(part.prior, usual_device(part.prior))


@dataclass(frozen=True)
class Method:
    """A paper, or whatever is said in the same words: parts by name and in order, at the paper's size and at the toybox's.

    ``about`` is one line. ``version`` is raised by hand when a default changes what runs: older results are told apart by it.
    """

    name: str
    about: str
    paper: dict[str, Part]
    toy: dict[str, Part]
    version: Annotated[int, Range(1, 10**6)] = 2

    def __post_init__(self):
        check_fields(self)
        for name in (self.name, *self.paper, *self.toy):
            if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", name):
                raise ValueError("a method's name is small letters, digits and hyphens, 40 at most, and so is a part's, got "
                                 f"{shown(name)}: change it")
        if not self.paper or list(self.paper) != list(self.toy):
            raise ValueError(f"{self.name} needs the same parts in both tiers, got {list(self.paper)} and {list(self.toy)}: "
                             "give one of each")
        for parts in (self.paper, self.toy):
            check_order(parts)

    def parts(self, tier: str) -> dict[str, Part]:
        """The parts of one tier, "toy" or "paper"."""
        if tier not in TIERS:
            raise ValueError(f'tier must be "toy" or "paper", got {shown(tier)}: choose one')
        return self.toy if tier == "toy" else self.paper

    def ask(self, prompt: str, tier: str = "toy", seed: int = 0, changes: dict[str, Any] | None = None) -> "Asked":
        """What to run: this method for a prompt and a seed, with ``changes`` by path, ``{"nerf.rule.guidance": 4}``; the name
        of the only part may be left out."""
        check("changes", changes, dict[str, Any] | None)
        parts = self.parts(tier)
        gathered: dict[str, dict[str, Any]] = {name: {} for name in parts}
        for path, value in (changes or {}).items():
            first, _, rest = path.partition(".")
            if not (first in parts and rest):
                if len(parts) > 1:
                    raise ValueError(f"{shown(path)} names no setting of a part of {self.name}, which are {', '.join(parts)}, "
                                     f"got {shown(value)}: write PART.{path}")
                first, rest = next(iter(parts)), path
            if rest in gathered[first]:
                raise ValueError(f"{path} is set twice, to {shown(gathered[first][rest])} and {shown(value)}: leave one out")
            gathered[first][rest] = value
        return Asked(self, prompt, tier, seed, {name: part.set(gathered[name]) for name, part in parts.items()})


def check_order(parts: dict[str, Part]) -> None:
    """ValueError where a part starts from one that does not stand before it."""
    for i, (name, part) in enumerate(parts.items()):
        found = options(part.start)
        if "of" in found and (of := found["of"][1]) not in list(parts)[:i]:
            raise ValueError(f"{name}.start.of must name a part that stands before it, one of {list(parts)[:i]}, got {of!r}: "
                             "change it")


READERS = {"file": read_mesh, "image": load_picture}  # options of starts that name a file, and what reads it


def files_of(part: Part) -> dict[str, str]:
    """The files that a part starts from, by the option that names them."""
    return {name: value for name, (_, value) in options(part.start).items() if name in READERS and value is not None}


@dataclass(frozen=True)
class Asked:
    """A method for one prompt and seed, with all settings; :meth:`Method.ask` makes it. A file that a part starts from is read
    here once, so that whatever is wrong with it is found out before any work."""

    method: Method
    prompt: str
    tier: str
    seed: int
    parts: dict[str, Part]

    def __post_init__(self):
        seeded(self.seed)
        check("prompt", self.prompt, str)
        if not re.search(r"\w", self.prompt):
            raise ValueError(f"the prompt {self.prompt!r} has no words: say what to make")
        if not self.prompt.isprintable():
            raise ValueError(f"the prompt {self.prompt[:60]!r} has characters that no file of results can hold: leave them out")
        check_order(self.parts)
        for part in self.parts.values():
            for name, file in files_of(part).items():
                READERS[name](file)  # or it is said now why that cannot be

    def tag(self, name: str) -> str:
        """A short name for a part's settings: what differs from the method's own, what its file holds, and the parts before."""
        i = list(self.parts).index(name)
        own = self.method.parts(self.tier)[name]
        about = {"method": self.method.name, "version": self.method.version, "tier": self.tier, "part": name,
                 "prompt": self.prompt, "seed": self.seed, "differs": difference(describe(self.parts[name]), describe(own)),
                 "before": [self.tag(before) for before in list(self.parts)[:i]]}
        for option, file in files_of(self.parts[name]).items():
            about[option] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]

    def settings(self, name: str) -> dict:
        """All of a part's settings, as JSON can hold them."""
        return {"method": self.method.name, "version": self.method.version, "tier": self.tier, "part": name,
                "prompt": self.prompt, "seed": self.seed, "settings": describe(self.parts[name])}

    def home(self, folder: Path, name: str) -> Path:
        """Where a part's files are: in the folder itself where there is one part only."""
        return Path(folder) / name if len(self.parts) > 1 else Path(folder)


@dataclass
class Work:
    """A part that is to be run, or to be gone on with: its stage, and its folder if files are kept.

    ``files`` is for whoever draws the result: what lies in the folder besides, by name; without them the part is not done.
    """

    name: str
    part: Part
    tag: str
    stage: Stage
    home: Path | None
    place: tuple[int, int]  # which part of how many
    begun: bool  # whether its start lies in the folder already
    files: dict[str, str]
    last: bool = True  # of those that are run

    @property
    def checkpoint(self) -> Path | None:
        return self.home and self.home / "checkpoint.safetensors"

    @property
    def title(self) -> str:
        i, n = self.place
        return "distilling" if n == 1 else f"{self.name}, part {i} of {n}"

    def schedule(self) -> str:
        """What will be run, in a line: t at the first and at the last step, or [the least, the most] where it is drawn; and
        what the prior is shown."""
        stage = self.stage
        ends = (stage.timesteps.bounds(step, stage.steps) for step in (0, max(stage.steps - 1, 0)))
        t = [f"{low}" if low == high else f"[{low}, {high}]" for low, high in ends]
        flat = stage.scene.dimensions == 2
        shown = {"rgb": "colours"}.get(name_of(stage.look), name_of(stage.look))
        size = "" if flat else f" of {stage.resolution} px"
        return (f"{self.title}: t {' to '.join(dict.fromkeys(t))} in {stage.steps} steps, {shown} of {stage.views} "
                f"{'picture' if flat else 'view'}{'s' * (stage.views > 1)}{size}, under {self.part.prior}")

    def run(self, every: int = 25, progress: bool = True) -> Iterator[Step]:
        """The steps that are left."""
        if self.home and not self.begun:
            self.stage.scene.save(self.home / "start.safetensors", tag=self.tag)
        return run(self.stage, self.checkpoint, every, progress, self.tag, self.title)


@checked
def work(asked: Asked, folder: Path | None = None, until: str | None = None, prior: Prior | None = None,
         always: bool = False) -> Iterator[Work]:
    """The parts that are not done, one after the other; each is done when the next is asked for, and its scene is kept then.

    With a ``folder`` each part has its start, checkpoint and scene there, and the same call goes on wherever it was stopped,
    bit for bit on a CPU. A part that is done is not run again. Where the first part's settings are others than those in the
    folder that is a ValueError; a later part's folder is renamed then, after its old tag, and the part runs anew. ``until``
    names the last part to run. ``prior`` saves loading; without it one is held at a time. ``always`` gives the last part also
    where it is done, to be measured.
    """
    names = list(asked.parts)
    if until is not None and until not in names:
        raise ValueError(f"until must name a part of {asked.method.name}, one of {', '.join(names)}, got {until!r}: change it")
    for part in asked.parts.values() if prior is None else ():
        check_machine(part)
    made: dict[str, Scene] = {}
    held = None if prior is None else (prior, None)

    def earlier(name: str) -> Scene:
        if folder is not None:
            return scenes.load(asked.home(folder, name) / "scene.safetensors", prior)
        scene = made[name]
        return scene.rebuild(scene.config(), {k: leaf.clone() for k, leaf in scene.state_dict().items()}, prior)

    last = until or names[-1]
    for i, name in enumerate(names[:names.index(last) + 1]):
        part, tag, home = asked.parts[name], asked.tag(name), folder if folder is None else asked.home(folder, name)
        begun = None
        if home:
            sweep_strays(home)
        if home and done(home, tag) and not (always and name == names[-1]):
            continue
        if home:
            make_room(home, tag, first=i == 0)
        if held is None or held[1] not in (None, part.prior):
            prior = held = None  # one at a time
            prior = load_prior(part)
            held = prior, part.prior
        if home and (start := home / "start.safetensors").exists() and scenes.notes(start).get("tag") == tag:
            begun = scenes.load(start, prior)
        stage = part.build(asked.prompt, prior, asked.seed if i == 0 else subseed(asked.seed, name) % 10**11, earlier, begun)
        item = Work(name, part, tag, stage, home, (i + 1, len(names)), begun is not None, {}, name == last)
        yield item
        if home:
            stage.scene.save(home / "scene.safetensors", tag=tag, files=item.files)
        else:
            made[name] = stage.scene
        item.stage = stage = None


def done(home: Path, tag: str) -> bool:
    """Whether a folder holds the finished part of this tag, with all its files."""
    if not (file := home / "scene.safetensors").exists():
        return False
    notes = scenes.notes(file)
    return notes.get("tag") == tag and all((home / name).exists() for name in notes.get("files", {}))


def tag_in(home: Path) -> str | None:
    """The tag of what was reached in a part's folder, None where nothing was."""
    if (file := home / "checkpoint.safetensors").exists():
        return read(file, tensors=False)[1]
    return scenes.notes(file).get("tag") if (file := home / "scene.safetensors").exists() else None


def make_room(home: Path, tag: str, first: bool) -> None:
    """See that a part's folder is its own. ValueError where the first part is another."""
    if (found := tag_in(home)) not in (None, tag):
        if first:
            raise ValueError(f"{home} belongs to other settings: remove it, or choose another folder (--out)")
        names = (f"{home.name}-{found}{more}" for more in ("", *(f"-{n}" for n in range(2, 1000))))
        home.rename(next(path for path in map(home.with_name, names) if not path.exists()))
