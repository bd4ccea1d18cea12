"""The gradient microscope: one picture, one t, one rule, and everything its residual is made of.

:func:`gradient_microscope` is the widget, :func:`figure` and :func:`describe` say the same without a kernel at hand.
For priors over pictures, in pixels or latents: the toybox prior, any ``DiffusionPrior``, ``ImageMixturePrior``.
"""
import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape

import torch
import torch.nn.functional as F
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from dreamlab import rules
from dreamlab.metrics.appearance import references
from dreamlab.noise import per_sample, randn, seeded
from dreamlab.priors.base import Prior, guide
from dreamlab.prompts import Prompt
from dreamlab.rules import RULES, Residual, Rule
from dreamlab.types import Sample
from dreamlab.widgets import to_png

PROMPTS = ("a red mug", "a yellow duck", "a blue car", "a green robot")
# All but those that train a network beforehand, and those whose guidance means something else
CHOICES = ("SDS", "CSD", "NFSD", "VSD", "VDM", "ISM", "SSD", "SDI", "PFD")


@dataclass
class Look:
    """What a rule sees of one picture x at one t, in the prior's space (1, C, h, w).

    ``x_t`` is the noisy sample *this rule* asks the prior about, inverted ones included. ``denoised`` is the prior's guided
    estimate (x_t - sigma_t eps_hat) / alpha_t; ``target`` = x - (sigma_t / alpha_t) residual / w(t) is where the rule pulls x:
    for SDS the same. ``guidance`` is s, None for a rule without one.
    """

    prior: Prior
    rule: str
    t: int
    guidance: float | None
    x: Sample
    x_t: Sample
    denoised: Sample
    target: Sample
    residual: Residual
    prompt: str


def named(prior: Prior, rule: str | Rule) -> Rule:
    """The rule itself, or a fresh one of that name. ValueError if there is none."""
    if isinstance(rule, Rule):
        return rule
    if rule not in RULES:
        raise ValueError(f"there is no rule {rule!r}; there is: {', '.join(RULES)}")
    return getattr(rules, rule).for_prior(prior)


def picture(prior: Prior, prompt: str | Prompt, x: Float[Tensor, "#b h w 3"] | None, seed: int) -> Sample:
    """The picture ``x``, or by default a true toybox render of the prompt, at the prior's size and in its space."""
    if x is None and isinstance(prompt, Prompt):
        raise ValueError("a Prompt of conditions names no toy to render: give the picture too, x (1, h, w, 3) in [0, 1]")
    x = references(prompt, 1, seed) if x is None else x
    if len(x) != 1:
        raise ValueError(f"the microscope shows one picture, got {len(x)}: give x[:1]")
    size = getattr(prior, "resolution", None) or prior.shape[-1]
    x = F.interpolate(x.movedim(-1, 1), (size, size), mode="bilinear", antialias=True).movedim(1, -1)
    return prior.encode(x.to(prior.device))


@contextmanager
def watched(prior: Prior) -> Iterator[list[tuple[Sample, Tensor]]]:
    """A list of the (x_t, t) that the prior is asked about meanwhile."""
    asked, eps = [], prior.eps

    def listen(x_t, t, *conds):
        asked.append((x_t, t))
        return eps(x_t, t, *conds)

    prior.eps = listen
    try:
        yield asked
    finally:
        del prior.eps


@torch.no_grad()
def look(prior: Prior, prompt: str | Prompt, t: int, guidance: float | None, rule: str | Rule,
         x: Float[Tensor, "#b h w 3"] | None = None, seed: int = 0) -> Look:
    """Apply ``rule`` once. Looking teaches it nothing: a rule that learns is put back as it was.

    ``rule``: a name in ``RULES``, which is built afresh (its critic or operator has then seen this picture at most once), or a
    rule from a run. ``guidance``: diffusers' s, None for the rule's own. ``seed`` fixes the noise, and the render where ``x``,
    a picture (1, h, w, 3) in [0, 1], is not given. ValueError for a t, a guidance, a rule or a prompt that does not fit.
    """
    if len(prior.shape) != 3:
        raise ValueError(f"the microscope shows pictures, and this prior is over samples of shape {tuple(prior.shape)}")
    rule = copy.copy(named(prior, rule))
    if guidance is not None and hasattr(rule, "guidance"):
        rule.guidance = float(guidance)
        Rule.__post_init__(rule)  # names a guidance that does not fit
    clean = picture(prior, prompt, x, seed)
    cond = prompt if isinstance(prompt, Prompt) else Prompt(prior.embed([prompt]), prior.null)
    when, eps = torch.tensor([t], device=clean.device), randn(tuple(clean.shape), seeded(seed)).to(clean)
    before = rule.state_dict()
    with watched(prior) as asked:
        residual = rule(prior, clean, when, eps, cond)
    rule.load_state_dict(before)
    x_t = next(x_k for x_k, k in asked if int(k[0]) == t)
    s = getattr(rule, "guidance", None)
    eps_hat = guide(*prior.eps(x_t, when, cond.positive, cond.null), 1.0 if s is None else s)
    ratio = prior.schedule.sigma(when, clean) / prior.schedule.alpha(when, clean)
    denoised = prior.schedule.x0(x_t, eps_hat, when)
    target = clean - ratio * residual.value / per_sample(residual.weight, clean)
    fresh = len(before) > 1 and not any("adam." in name for name in before)
    return Look(prior, f"{type(rule).__name__}{' (untrained)' if fresh else ''}", t, s, clean, x_t, denoised, target, residual,
                prompt if isinstance(prompt, str) else "this prompt")


def rms(x: Tensor) -> float:
    """Root mean square: the norm divided by the root of the number of values, so that unit noise has 1."""
    return x.square().mean().sqrt().item()


def cosine(a: Tensor, b: Tensor) -> float:
    return F.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()


def differences(view: Look) -> dict[str, Sample]:
    """What is small beside the parts: the guidance direction, where the rule keeps both of its ends, and the residual."""
    parts, direction = view.residual.parts, {}
    if {"conditional", "unconditional"} <= parts.keys():
        direction = {"conditional - unconditional": parts["conditional"] - parts["unconditional"]}
    return direction | {"residual": view.residual.value}


def sentence(view: Look) -> str:
    """:func:`describe` for a look already taken."""
    (first, reference), *others = view.residual.parts.items()
    abar = view.prior.schedule.abar(torch.tensor([view.t])).item()
    small, sizes = differences(view), lambda samples: ", ".join(f"{name} {rms(p):.2f}" for name, p in samples.items())
    text = (f"{view.rule} on {view.prompt}, t {view.t}, "
            f"{'no guidance' if view.guidance is None else f'guidance {view.guidance:g}'}: alpha {abar**0.5:.2f}, "
            f"sigma {(1 - abar)**0.5:.2f}, w {view.residual.weight.item():.2f}. Root mean squares: "
            f"{sizes(view.residual.parts | small)}. Cosines with {first}: "
            f"{', '.join(f'{name} {cosine(reference, p):.3f}' for name, p in others)}")
    return text + (f"; of residual and {next(iter(small))} {cosine(*small.values()):.3f}" if len(small) == 2 else "")


def draw(view: Look) -> Figure:
    """:func:`figure` for a look already taken."""
    s = "guided" if view.guidance is None else f"guided, s = {view.guidance:g}"
    pictures = {"picture x": view.x, f"noisy x_t\nt = {view.t}": view.x_t, f"denoised estimate\n{s}": view.denoised,
                "where the rule\npulls x": view.target}
    small = differences(view)
    # Eight channels cannot be seen: all maps show the one direction in them along which the residual is largest.
    axis = torch.linalg.svd(view.residual.value[0].flatten(1), full_matrices=False).U[:, 0]
    axis = axis * axis[axis.abs().argmax()].sign()
    maps = lambda samples: [torch.einsum("c,chw->hw", axis, p[0]).float().cpu().numpy() for p in samples.values()]  # noqa: E731

    fig = Figure(figsize=(11, 5.2), dpi=80, layout="constrained")
    axes = fig.subplots(2, 5)
    for ax in axes.flat:
        ax.axis("off")
    for ax, (name, sample) in zip(axes[0], pictures.items(), strict=False):
        ax.imshow(view.prior.decode(sample)[0].float().cpu().numpy(), interpolation="nearest")
        ax.set_title(name, fontsize=11)
    # the differences stand in the last column, on a scale of their own, the residual below
    for where, samples, limit, bars, place, label in (
            (axes[1, :4], view.residual.parts, 3.0, axes[1, :4], "bottom", "parts: noise, the same scale for all"),
            (axes[2 - len(small):, 4], small, max(abs(p).max() for p in maps(small)), axes[:, 4], "right",
             "differences: a scale of their own")):
        for ax, (name, p), shown in zip(where, samples.items(), maps(samples), strict=False):
            image = ax.imshow(shown, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
            ax.set_title(f"{name.replace(' - ', chr(10) + '- ')}\nrms {rms(p):.2f}", fontsize=11)
        fig.colorbar(image, ax=bars, location=place, shrink=0.7, aspect=30, label=label)
    fig.suptitle(f"{view.rule}, {view.prompt}. Maps: one direction in the {len(axis)} channels, the residual's strongest",
                 fontsize=11)
    return fig


def figure(prior: Prior, prompt: str | Prompt, t: int, guidance: float | None, rule: str | Rule,
           x: Float[Tensor, "#b h w 3"] | None = None, seed: int = 0) -> Figure:
    """Above, as pictures: x, x_t, the denoised estimate, where the rule pulls x. Below: the residual's parts on one colour
    scale. Right: the guidance direction and the weighted residual, which is *descended*, on another."""
    return draw(look(prior, prompt, t, guidance, rule, x, seed))


def png(prior: Prior, prompt: str | Prompt, t: int, guidance: float | None, rule: str | Rule,
        x: Float[Tensor, "#b h w 3"] | None = None, seed: int = 0) -> bytes:
    """:func:`figure` as a PNG."""
    return to_png(figure(prior, prompt, t, guidance, rule, x, seed))


def describe(prior: Prior, prompt: str | Prompt, t: int, guidance: float | None, rule: str | Rule,
             x: Float[Tensor, "#b h w 3"] | None = None, seed: int = 0) -> str:
    """One line of numbers: alpha, sigma, w; the root mean squares of the parts, and the cosines between them."""
    return sentence(look(prior, prompt, t, guidance, rule, x, seed))


def gradient_microscope(prior: Prior, prompts: Sequence[str] = PROMPTS, rules: Sequence[str] | dict[str, Rule] = CHOICES,
                        t: int = 500, guidance: float = 4.5, x: Float[Tensor, "#b h w 3"] | None = None, seed: int = 0):
    """The widget: pick a rule and a prompt, drag through t and s. ``.children`` are four controls, a line, a picture.

    ``rules``: names, each built when it is first picked, or {name: rule} of rules that have been through a run.
    """
    import ipywidgets as W

    built = dict(rules) if isinstance(rules, dict) else {}
    wide = W.Layout(width="40em")
    names = W.Dropdown(options=list(rules), description="rule")
    texts = W.Dropdown(options=list(prompts), description="prompt")
    times = W.IntSlider(t, 0, len(prior.schedule) - 1, description="t", continuous_update=False, layout=wide)
    scale = W.FloatSlider(guidance, min=1, max=20, step=0.5, description="guidance s", continuous_update=False, layout=wide)
    line, image = W.HTML(), W.Image(format="png")

    def show(change=None):
        if names.value not in built:
            built[names.value] = named(prior, names.value)
        view = look(prior, texts.value, times.value, scale.value, built[names.value], x, seed)
        line.value, image.value = escape(sentence(view)), to_png(draw(view))

    for control in (names, texts, times, scale):
        control.observe(show, "value")
    show()
    return W.VBox([names, texts, times, scale, line, image])
