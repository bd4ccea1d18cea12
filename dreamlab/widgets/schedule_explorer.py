"""The schedule explorer: which noise levels a recipe draws at a step, and how much each of them counts.

:func:`schedule_explorer` is the widget, :func:`figure` and :func:`describe` say the same without a kernel at hand.
"""
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from html import escape

import torch
from matplotlib.figure import Figure
from torch import Tensor

from dreamlab.methods import METHODS
from dreamlab.noise import Schedule
from dreamlab.pipeline import Part
from dreamlab.schedules import Cosine, DreamTime, Exponential, Grid, Timesteps, Uniform, constant, dca_lambda, one, sigma2
from dreamlab.settings import options
from dreamlab.stage import rate_at
from dreamlab.widgets import BLUE, GREEN, GREY, ORANGE, to_png


@dataclass(frozen=True)
class Recipe:
    """What a run decides about time.

    ``timesteps``, the weight ``w(schedule, t)``, the factor ``lam(schedule, t)`` of the noise that is subtracted (1 but
    for DCA), and ``rate(step, steps)``, which multiplies the learning rates of a run of ``steps``.
    """

    timesteps: Timesteps
    weight: Callable[[Schedule, Tensor], Tensor]
    lam: Callable[[Schedule, Tensor], Tensor] = one
    rate: Callable[[int, int], float] = Cosine()
    steps: int = 5000


def recipe(part: Part) -> Recipe:
    """The recipe of a part of a method. Its rate is the part's ``decay``: leaves whose own rates fall are not in it."""
    rule = {name: value for name, (_, value) in options(part.rule).items()}
    timesteps = part.timesteps or rule["grid"]
    lam = partial(dca_lambda, cutoff=rule["cutoff"]) if rule.get("dca") else one
    return Recipe(timesteps, rule["weight"] or timesteps.weight, lam, part.decay,
                  timesteps.steps if part.steps is None else part.steps)


def of_leaf(part: Part, name: str) -> Recipe:
    """The recipe of a part, with the rate of one group of leaves, over its largest, in the place of its decay."""
    knots = part.rates[name]
    most = max(rate for _, rate in knots)
    return replace(recipe(part), rate=lambda step, steps: rate_at(knots, step / steps) / most)


NEUS = METHODS["geodream"].paper["neus"]
RECIPES = {
    "DreamFusion (SDS)": Recipe(Uniform(20, 980), sigma2, rate=Cosine(3000, 0.01), steps=15_000),  # its appendix A.2
    # its rates fall one by one, which no one factor tells; the curve is the toybox's
    "DreamMapping (VDM with DCA)": replace(recipe(METHODS["dreammapping"].paper["shape"]), rate=Cosine()),
    "DreamMapping on the toybox": recipe(METHODS["dreammapping"].toy["shape"]),
    # the official code; the rates are those of the positions, the others fall less. Its factor 0.1 of w is left out
    "LucidDreamer (ISM)": replace(recipe(METHODS["luciddreamer"].paper["shape"]), rate=Exponential(0, 0.01)),
    "ProlificDreamer (VSD)": recipe(METHODS["prolificdreamer"].paper["shape"]),  # threestudio
    # arXiv 2306.12422 changes t alone: w, rates and steps are those of DreamFusion in threestudio
    "DreamTime": Recipe(DreamTime(), sigma2, rate=constant, steps=10_000),
} | {f"DreamFlow {i}, {name}{where} (APFO)": recipe(part) for tier, where in (("paper", ""), ("toy", ", on the toybox"))
     for i, (name, part) in enumerate(getattr(METHODS["dreamflow"], tier).items(), 1)
} | {f"GeoDream (VSD), rate of the {name}": of_leaf(NEUS, leaf) for name, leaf in (("volume", "volume"), ("texture", "grid"))}


def known(recipe: str, step: int) -> Recipe:
    """The recipe of that name. ValueError if there is none, or if it has no such step."""
    if recipe not in RECIPES:
        raise ValueError(f"no recipe {recipe!r}; there is: {', '.join(RECIPES)}")
    if not 0 <= step < RECIPES[recipe].steps:
        raise ValueError(f"step must lie in [0, {RECIPES[recipe].steps - 1}], got {step}")
    return RECIPES[recipe]


def describe(recipe: str, step: int) -> str:
    """One line of numbers: the range of t at this step, and sigma, w and lambda at its two ends; or the one t of the step."""
    r, schedule = known(recipe, step), Schedule.scaled_linear()
    low, high = r.timesteps.bounds(step, r.steps)
    ends = torch.tensor([low, high] if low < high else [low])
    number = lambda v: f"{v:.2f}" if v >= 0.01 else f"{v:.2g}"  # noqa: E731
    pair = lambda values: " to ".join(map(number, values.tolist()))  # noqa: E731
    when = f"t from {low} to {high}" if low < high else f"t {low}"
    return (f"step {step} of {r.steps}: {when}, sigma {pair((1 - schedule.abar(ends)).sqrt())}, "
            f"w {pair(r.weight(schedule, ends))}, lambda {pair(r.lam(schedule, ends))}, "
            f"learning rates x {r.rate(step, r.steps):.2f}")


def figure(recipe: str, step: int) -> Figure:
    """Eight panels. Above: t over the steps; alpha and sigma, lambda, w over t, with what this step draws in grey. Below:
    learning rates over the steps; the same three over the steps, each a band of all values that t draws and their mean."""
    r, schedule = known(recipe, step), Schedule.scaled_linear()
    curves = [  # title, {label: (function of t, colour, line style)}
        ("signal and noise", {r"$\alpha_t$": (lambda s, t: s.abar(t).sqrt(), BLUE, "-"),
                              r"$\sigma_t$": (lambda s, t: (1 - s.abar(t)).sqrt(), ORANGE, "--")}),
        (r"DCA's $\lambda_t$ (1: none)", {r"$\lambda_t$": (r.lam, GREEN, "-")}),
        ("weight w(t)", {"w": (r.weight, BLUE, "-")}),
    ]
    every = torch.arange(len(schedule))
    over = range(0, r.steps, max(r.steps // 200, 1))
    bounds = [r.timesteps.bounds(s, r.steps) for s in over]
    low, high = r.timesteps.bounds(step, r.steps)

    fig = Figure(figsize=(12, 5.4), dpi=80, layout="constrained")
    (when, *above), (rate, *below) = fig.subplots(2, 4)
    band(when, over, bounds, every, BLUE, "-")
    when.set(title="t drawn", xlabel="step", ylabel="t", ylim=(0, 1000))
    rate.plot(over, [r.rate(s, r.steps) for s in over], color=BLUE)
    rate.set(title="learning rates, times", xlabel="step", ylim=(0, 1.1))
    for (title, lines), up, down in zip(curves, above, below, strict=True):
        for label, (f, colour, style) in lines.items():
            values = f(schedule, every)
            shown = r.timesteps.t[:-1] if label == "w" and isinstance(r.timesteps, Grid) else every
            up.plot(shown.numpy(), values[shown].numpy(), color=colour, ls=style, label=label)
            band(down, over, bounds, values, colour, style)
        up.axvspan(low - 3, high + 3, color=GREY, zorder=0)
        up.set(title=title, xlabel="t", xlim=(-30, 1030))
        down.set(title=f"{title.split(' (')[0]}, as drawn", xlabel="step")
        for ax in (up, down):
            ax.set(ylim=(-0.05, 1.1))
    w = values[shown].log10()
    for ax in (above[-1], below[-1]):
        ax.set(yscale="log", ylim=(10 ** (w.min() - 0.1).floor().item(), 10 ** (w.max() + 0.1).ceil().item()))
    fig.suptitle(f"{recipe}. Grey and black line: step {step}. Coloured band: all that this step may draw, with its mean",
                 fontsize=11)
    above[0].legend(fontsize=9, loc="center right")
    for ax in (when, rate, *below):
        ax.axvline(step, color="k", lw=1)
    return fig


def band(ax, over: range, bounds: list[tuple[int, int]], values: Tensor, colour: str, style: str) -> None:
    """``values`` (T,) at the t of each step: smallest to largest as a band, the mean as a line."""
    drawn = [values[low:high + 1] for low, high in bounds]
    ax.fill_between(over, [v.min().item() for v in drawn], [v.max().item() for v in drawn], color=colour, alpha=0.25, lw=0)
    ax.plot(over, [v.float().mean().item() for v in drawn], color=colour, ls=style)


def png(recipe: str, step: int) -> bytes:
    """:func:`figure` as a PNG."""
    return to_png(figure(recipe, step))


def schedule_explorer(recipe: str = "DreamMapping on the toybox"):
    """The widget: pick a recipe, drag through its steps. ``.children`` are two controls, a line of numbers, a picture.

    Core ipywidgets, so the keyboard is enough; no Output widget, so an error is seen.
    """
    import ipywidgets as W

    names = W.Dropdown(options=list(RECIPES), value=recipe, description="recipe", layout=W.Layout(width="24em"))
    steps = W.IntSlider(description="step", continuous_update=False, max=known(recipe, 0).steps - 1,
                        layout=W.Layout(width="40em"))
    line, picture = W.HTML(), W.Image(format="png")

    def show(change=None):
        if change and change.owner is names:
            steps.max, steps.value = RECIPES[names.value].steps - 1, 0
        line.value = escape(describe(names.value, steps.value))
        picture.value = png(names.value, steps.value)

    for control in (names, steps):
        control.observe(show, "value")
    show()
    return W.VBox([names, steps, line, picture])
