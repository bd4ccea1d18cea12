"""The one loop: a scene renders, a prior predicts noise, a rule turns the two into a gradient, an optimiser follows it."""
import json
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from dreamlab.cameras import Cameras, Orbit
from dreamlab.checks import Count, NotNegative, Positive, Range, Share, check, check_fields, checked, finite, shown, unbound
from dreamlab.files import writing
from dreamlab.learner import Adam, select
from dreamlab.noise import Seed, randn, seeded, stream
from dreamlab.priors.base import Prior
from dreamlab.priors.critic import comparable
from dreamlab.prompts import Prompt
from dreamlab.rules.base import Residual, Rule, distill
from dreamlab.scenes.base import Scene, own
from dreamlab.scenes.growth import Growth
from dreamlab.schedules import constant
from dreamlab.threads import each, gradients, pieces, sharing
from dreamlab.types import Render

Steps = Annotated[int, Range(0, 10**7)]
Views = Annotated[int, Range(1, 4096)]
Pixels = Annotated[int, Range(8, 8192)]
Rate = Positive | tuple[Positive, Positive] | tuple[tuple[Share, Positive], ...]
# (scene, prior, cameras, resolution, background, generator) -> the render, if there is one, and what the prior sees of it
Look = Callable[[Scene, Prior, Cameras, int | None, Tensor | None, torch.Generator], tuple[Render | None, Tensor]]


def rgb(scene, prior, cameras, resolution, background, generator) -> tuple[Render, Tensor]:
    """The prior looks at the rendered colours. What is not finite is an error that names the scene."""
    render = scene.render(cameras, resolution, background, generator)
    if not render.rgb.isfinite().all():
        raise FloatingPointError(f"the render has {unbound(render.rgb)} of {render.rgb.numel()} values that are not finite: "
                                 f"{state_of(scene)}")
    if not render.rgb.requires_grad:
        raise ValueError("the render has no gradient: let the prior look at the latents as they are, look=latents")
    return render, prior.encode(render.rgb)


def normals(scene, prior, cameras, resolution, background, generator) -> tuple[Render, Tensor]:
    """The prior looks at the world normals n as colours, (n + 1) / 2, over the background (Fantasia3D, arXiv 2303.13873)."""
    render = scene.render(cameras, resolution, background, generator)
    if render.normal is None:
        raise ValueError(f"a {type(scene).__name__} shows no normals: let the prior look at its colours, look=rgb")
    picture = (render.normal + render.alpha) / 2 + (1 - render.alpha) * background.to(render.alpha).view(-1, 1, 1, 3)
    if not picture.isfinite().all():
        raise FloatingPointError(f"the normals have {unbound(picture)} of {picture.numel()} values that are not finite: "
                                 f"{state_of(scene)}")
    return render, prior.encode(picture)


def latents(scene, prior, cameras, resolution, background, generator) -> tuple[None, Tensor]:
    """The prior looks at a scene's latents as they are, without a render: a picture's, or a field's seen by cameras."""
    return None, scene.latent(cameras, prior.shape[-1], background, generator)


def check_leaves(scene: Scene) -> None:
    """ValueError for a scene to begin with that is not finite."""
    for name, leaf in scene.parameters().items():
        finite(leaf, f"the scene's {name} has", "begin with another scene")


def state_of(scene: Scene) -> str:
    """Whether a scene's leaves are finite, and what to do where its render or its gradient is not."""
    for name, leaf in scene.parameters().items():
        if n := unbound(leaf):
            return f"the scene has diverged, {n} of {leaf.numel()} values of {name} are not finite: lower the rates"
    size, name = max((leaf.abs().max().item(), name) for name, leaf in scene.parameters().items())
    return f"the {type(scene).__name__}'s leaves are finite, {name} reaches {size:.3g}: lower the rates if that has grown"


LOOKS = {"rgb": rgb, "normals": normals, "latents": latents}


@dataclass
class Stage:
    """A scene, a prior, a rule, and how to bring them together.

    ``rates`` gives the optimiser's rate for each leaf: a number, a pair (first, last) with a log-linear way between them, or
    knots (:func:`rate_at`); a leaf that is not named stays as it is. ``decay(step, steps)`` multiplies all rates.
    ``prompts(cameras)`` gives the Prompt of a batch of views, ``timesteps(step, steps, n, generator)`` its noise levels,
    ``background(n, generator)`` (n, 3) colours, or None for the scene's own (:func:`~dreamlab.scenes.base.own`). ``look`` is
    what the prior is shown.
    ``regularise(scene, render)`` is a scalar added to the loss; where it has an ``at(step, steps)``, that of the step.
    ``growth`` may change how many Gaussians the scene has. Pictures have no sides and a size of their own: ``cameras`` and
    ``resolution`` are None then.
    """

    scene: Scene
    prior: Prior
    rule: Rule
    prompts: Callable[[Cameras], Prompt]
    timesteps: Callable[[int, int, int, torch.Generator], Tensor]
    rates: dict[str, Rate]
    decay: Callable[[int, int], float] = constant
    look: Look = rgb
    regularise: Callable[[Scene, Render], Tensor] | None = None
    growth: Growth | None = None
    background: Callable[[int, torch.Generator], Tensor | None] = lambda n, generator: torch.rand(n, 3, generator=generator)
    cameras: Orbit | None = field(default_factory=Orbit)
    steps: Steps = 300
    views: Views = 4
    resolution: Pixels | None = 64
    optimiser: Callable[[list[dict]], torch.optim.Optimizer] = field(default_factory=Adam)
    seed: Seed = 0

    def __post_init__(self):
        check_fields(self)
        check_knots(self.rates)
        if not isinstance(leaves := self.scene.parameters(), dict):
            raise ValueError(f"scene.parameters() must be a dict of leaves by name, got {type(leaves).__name__} from a "
                             f"{type(self.scene).__name__}")
        if unknown := self.rates.keys() - leaves.keys():
            raise ValueError(f"rates name {sorted(unknown)}, and the scene has only {sorted(leaves)}: rename or remove them")
        if still := [name for name in self.rates if not leaves[name].requires_grad]:
            raise ValueError(f"rates name {still}, which this {type(self.scene).__name__} keeps as they are: remove them")
        check_leaves(self.scene)
        has = any(name.startswith("background.") for name in leaves)
        if has != (self.background is own):
            asked = getattr(self.background, "__name__", self.background)
            raise ValueError(f"background must {'' if has else 'not '}be own for a {type(self.scene).__name__} that learns "
                             f"{'one' if has else 'none'}, got {asked}: change it, or start.sky")
        if not self.rates:
            raise ValueError(f"rates name no leaf, and nothing would move: give a rate to some of {sorted(leaves)}")
        together = {"prior sees": self.prior.joined, "cameras give": getattr(self.cameras, "joined", 1)}
        for what, n in together.items():
            if self.views % n:
                raise ValueError(f"the {what} {n} views of one object together, got views {self.views}: take a multiple of {n}")
        bounds = getattr(self.timesteps, "bounds", None)  # a plain function has none
        for step in (0, max(self.steps - 1, 0)) if bounds else ():
            low, high = bounds(step, self.steps)
            if not 0 <= low <= high < (T := len(self.prior.schedule)):
                raise ValueError(f"t must lie in [0, {T - 1}], and step {step} draws it from [{low}, {high}]: change timesteps")
        if bounds and (grid := getattr(self.rule, "timesteps", None)) not in (None, self.timesteps):
            raise ValueError(f"{type(self.rule).__name__} is weighted by the steps of {grid}, got {self.timesteps}: give the "
                             "stage the rule's timesteps")
        if critic := getattr(self.rule, "critic", None):
            comparable(critic, self.prior)
        for part in filter(None, (self.growth, self.regularise)):
            if fits := getattr(part, "check", None):  # a plain function has none
                fits(self.scene)


@dataclass
class Step:
    """What a notebook wants to plot of one step. ``render`` is None for a scene of latents: ``scene.render()`` shows it.

    ``loss``: mean square of the residual; the surrogate's means nothing.
    """

    step: int
    t: Tensor
    cameras: Cameras
    render: Render | None
    residual: Residual
    loss: float
    grad_norm: float


@checked
def run(stage: Stage, checkpoint: Path | str | None = None, every: Count = 25, progress: bool = True, tag: str = "",
        name: str = "distilling") -> Iterator[Step]:
    """Yield the steps of ``stage``. With ``checkpoint`` the run is saved there every ``every`` steps and when it is
    interrupted, and a run that finds its file goes on from it, bit for bit on a CPU with any number of threads.

    ``tag`` names the settings; a checkpoint with another tag is an error, because it would not be the same run. Without one
    nothing but the shapes of the leaves tells a checkpoint of other settings. ``name`` stands before the progress.

    A step happens as a whole or not at all. Where it fails, scene, optimiser, rule and growth are put back to the step
    before, that is saved, and the error goes on to the caller: ``FloatingPointError`` if a gradient, a leaf or a render is not
    finite, ``ValueError`` if a rate, the prior or its autoencoder is not, or if no Gaussian would be left. ``OSError`` if a
    checkpoint cannot be written, which keeps the one before, or cannot be read.
    """
    optimiser, done = make_optimiser(stage), 0
    if checkpoint and Path(checkpoint).exists():
        optimiser, done = load(stage, checkpoint, tag)
    check_leaves(stage.scene)
    saved = done
    bar = tqdm(range(done, stage.steps), initial=done, total=stage.steps, disable=not progress, desc=name)
    try:
        for step in bar:
            before = snapshot(stage, optimiser)
            try:
                with uninterrupted() as asked:
                    result = advance(stage, optimiser, step)
            except BaseException:
                optimiser = restore(stage, before)
                raise
            done = step + 1
            bar.set_postfix(loss=f"{result.loss:.3f}", refresh=False)
            if checkpoint and (done % every == 0 or done == stage.steps):
                save(stage, optimiser, checkpoint, done, tag)
                saved = done
            yield result
            if asked:
                raise KeyboardInterrupt
    finally:
        if checkpoint and done > saved:
            save(stage, optimiser, checkpoint, done, tag)


@contextmanager
def uninterrupted() -> Iterator[list]:
    """Inside, a first Ctrl-C only fills the list; a second one interrupts as usual.

    Between two steps scene, optimiser and critic are of one age, so what is saved there goes on bit for bit.
    """
    asked: list[bool] = []
    if threading.current_thread() is not threading.main_thread():  # where signals cannot be caught
        yield asked
        return
    before = signal.getsignal(signal.SIGINT) or signal.default_int_handler

    def note(*_):
        asked.append(True)
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def make_optimiser(stage: Stage) -> torch.optim.Optimizer:
    """The optimiser over the scene's leaves, a group for each name in ``rates``, in that order."""
    parameters = stage.scene.parameters()
    return stage.optimiser([{"params": [parameters[name]], "name": name} for name in stage.rates])


def rate_at(rate: float | tuple, share: float) -> float:
    """The rate after a share of the run: a number stays, a pair (first, last) falls log-linearly. Knots (share, rate) are
    joined by straight lines; where two have one share it jumps, and has the second's rate from there on."""
    if not isinstance(rate, tuple):
        return rate
    if not isinstance(rate[0], tuple):
        first, last = rate
        return first * (last / first) ** share if first != last else first
    after = next((i for i, (at, _) in enumerate(rate) if at > share), len(rate))
    (a, low), (b, high) = rate[max(after - 1, 0)], rate[min(after, len(rate) - 1)]
    return low + (high - low) * (share - a) / (b - a) if b > a and share > a else low


def check_knots(rates: dict[str, Rate]) -> None:
    """ValueError for knots whose shares fall, or that do not begin at 0."""
    for name, rate in rates.items():
        if isinstance(rate, tuple) and isinstance(rate[0], tuple):
            shares = [share for share, _ in rate]
            if shares[0] != 0 or shares != sorted(shares):
                raise ValueError(f"the knots of rates.{name} begin at share 0 and their shares rise, got {shares}: sort them")


def advance(stage: Stage, optimiser: torch.optim.Optimizer, step: int) -> Step:
    """One step: cameras, render, noise, residual, gradient, Adam. On a CPU the views are drawn, encoded and differentiated in
    pieces (:mod:`dreamlab.threads`), with the same bits for any number of threads; the rule sees all of them at once."""
    with sharing(stage.prior.device), torch.enable_grad():  # also in a notebook that has switched gradients off
        return _advance(stage, optimiser, step)


def _advance(stage: Stage, optimiser: torch.optim.Optimizer, step: int) -> Step:
    generator = seeded(stage.seed, step)
    for group in optimiser.param_groups:
        rate = rate_at(stage.rates[group["name"]], step / max(stage.steps - 1, 1))
        group["lr"] = rate * stage.decay(step, stage.steps)
        check(f"the rate of {group['name']} at step {step}", group["lr"], NotNegative, "change rates or decay")
    cameras = (stage.cameras or Orbit()).at(step, stage.steps).sample(stage.views, generator)
    background = stage.background(stage.views, generator)
    if background is not None:
        finite(background, "the background has", "change background")
    regularise = stage.regularise
    if at := getattr(regularise, "at", None):  # a plain function has none
        regularise = at(step, stage.steps)

    def look(rows: slice) -> tuple[Render | None, Tensor]:
        jitter = stream(stage.seed, "jitter", step * stage.views + rows.start)
        return stage.look(stage.scene, stage.prior, cameras[rows], stage.resolution,
                          None if background is None else background[rows], jitter)

    shares = [slice(0, stage.views)] if stage.scene.dimensions == 2 else pieces(stage.views)  # pictures are looked at whole
    renders, seen = zip(*each(look, shares), strict=True)
    x = torch.cat([part.detach() for part in seen])
    t = stage.timesteps(step, stage.steps, len(x), generator).to(x.device)
    eps = randn(tuple(x.shape), generator).to(x)
    residual = stage.rule(stage.prior, x, t, eps, stage.prompts(cameras), cameras)

    def loss(part: tuple) -> Tensor:
        seen, render, *of = part
        total = distill(seen, Residual(*of)) / len(x)
        return total + regularise(stage.scene, render) * (len(seen) / len(x)) if regularise else total

    sizes = [len(part) for part in seen]
    parts = [*zip(seen, renders, residual.value.split(sizes), residual.weight.split(sizes), strict=True)]
    leaves = [leaf for group in optimiser.param_groups for leaf in group["params"]]
    found = gradients(loss, parts, leaves)
    for leaf, gradient in zip(leaves, found, strict=True):
        leaf.grad = gradient
    norm = torch.stack([g.norm() for g in found if g is not None]).norm().item()
    render = renders[0] and Render.cat(renders)
    if not norm < float("inf"):
        raise FloatingPointError(f"the gradient of step {step} is not finite (norm {norm}); the scene is as it was before "
                                 f"it: {reason(stage, renders, residual)}")
    if stage.growth:
        stage.growth.observe(render)
    optimiser.step()
    if stage.growth:
        stage.growth(step, stage.scene, optimiser, generator)
    for name, leaf in stage.scene.parameters().items():
        if not leaf.isfinite().all():
            raise FloatingPointError(f"step {step} makes {unbound(leaf)} values of {name} not finite; the scene is as it was "
                                     "before it: lower the rates")
    return Step(step, t, cameras, render, residual, residual.value.square().mean().item(), norm)


def reason(stage: Stage, renders: Sequence[Render | None], residual: Residual) -> str:
    """Why a gradient is not finite, and what to do."""
    if unbound(residual.value):
        return f"the residual of {type(stage.rule).__name__} is not finite: lower the guidance, or change the rule's weight"
    if stage.regularise and any(unbound(stage.regularise(stage.scene, render)) for render in renders):
        return "the regulariser's loss is not finite: change regularise"
    return f"lower the rates or the guidance; residual and regulariser are finite, {state_of(stage.scene)}"


def snapshot(stage: Stage, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Copies of what a step changes: ``scene.*``, Adam's moments ``adam.*``, the states of ``rule.*`` and ``growth.*``."""
    tensors = {f"scene.{k}": v for k, v in stage.scene.parameters().items()}
    for i, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{i}.{k}": torch.as_tensor(v) for k, v in moments.items()}
    tensors |= {f"growth.{k}": v for k, v in stage.growth.state_dict().items()} if stage.growth else {}
    copies = {k: v.detach().contiguous().clone() for k, v in tensors.items()}
    return copies | {f"rule.{k}": v for k, v in stage.rule.state_dict().items()}  # a rule's state is a copy already


def save(stage: Stage, optimiser: torch.optim.Optimizer, path: Path, done: int, tag: str) -> None:
    """The :func:`snapshot` in a safetensors file, with the number of steps done and the tag. OSError where it finds no room."""
    tensors = snapshot(stage, optimiser)
    with writing(path) as part:  # one entry: several have no fixed order in the file
        save_file(tensors, part, metadata={"dreamlab": json.dumps({"done": done, "tag": tag}, sort_keys=True)})


def read(path: Path, tensors: bool = True) -> tuple[int, str, dict[str, Tensor]]:
    """Steps done, tag and tensors of a checkpoint. OSError for a file that is cut short or something else."""
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["dreamlab"])
            done, tag = about["done"], about["tag"]
            if type(done) is not int or done < 0 or type(tag) is not str:
                raise ValueError(f"it says that {done!r} steps are done, with the tag {tag!r}")
            return done, tag, {k: file.get_tensor(k) for k in file.keys()} if tensors else {}
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise OSError(f"the checkpoint {path} cannot be read, it is damaged or something else ({error}): remove it to start "
                      "this run anew, or put a copy of it in its place") from error


def load(stage: Stage, path: Path, tag: str) -> tuple[torch.optim.Optimizer, int]:
    """Put a checkpoint back into the stage; returns its optimiser, and how many steps it holds.

    OSError for a file that is damaged, ValueError for one of another run; nothing is changed then.
    """
    done, found, tensors = read(path)
    saved, mine = select(tensors, "scene"), stage.scene.parameters()
    shape = (lambda leaf: leaf.shape[1:]) if stage.growth else lambda leaf: leaf.shape
    like = {k: shape(v) for k, v in saved.items()} == {k: shape(v) for k, v in mine.items()}
    if found != tag or not like or done > stage.steps:
        raise ValueError(f"the checkpoint {path} belongs to other settings: remove it, or choose another folder (--out)")
    before = snapshot(stage, make_optimiser(stage))
    try:
        optimiser = restore(stage, tensors)
        after, leaves = snapshot(stage, optimiser), [saved[name] for name in stage.rates]
        moments = ("step", "exp_avg", "exp_avg_sq") if isinstance(optimiser, torch.optim.Adam) else ()
        for key in sorted(tensors.keys() | after.keys() | {f"adam.{i}.{m}" for i in range(len(leaves)) for m in moments}):
            x, (kind, i, *_) = tensors[key], key.split(".")
            of = leaves[int(i)] if kind == "adam" else leaves[0]
            right = (x.shape, x.dtype) == (after[key].shape, after[key].dtype) and not unbound(x)
            if not right or (kind == "adam" and not key.endswith("step") and x.shape != of.shape) or (
                    kind == "growth" and len(x) != len(of)):
                raise ValueError(f"{key} is {shown(x)}")
    except (ValueError, LookupError, TypeError, RuntimeError) as error:
        restore(stage, before)
        raise OSError(f"the checkpoint {path} cannot be read, it is damaged or something else, not what a run saves ({error}): "
                      "remove it to start this run anew, or put a copy of it in its place") from error
    return optimiser, done


def restore(stage: Stage, tensors: dict[str, Tensor]) -> torch.optim.Optimizer:
    """Put a :func:`snapshot` back into the stage; returns its optimiser. ValueError, and no change, if the rule is another."""
    stage.rule.load_state_dict(select(tensors, "rule"))
    device = next(iter(stage.scene.parameters().values())).device
    if stage.growth:
        stage.growth.load_state_dict(select(tensors, "growth"))
    stage.scene.load_state_dict({k: v.to(device) for k, v in select(tensors, "scene").items()})
    optimiser = make_optimiser(stage)
    state = optimiser.state_dict()
    for key, value in tensors.items():
        if key.startswith("adam."):
            _, i, name = key.split(".")
            state["state"].setdefault(int(i), {})[name] = value
    optimiser.load_state_dict(state)
    return optimiser
