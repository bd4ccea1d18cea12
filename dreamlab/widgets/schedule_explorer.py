"""The schedule explorer: which noise levels a recipe draws at a step, and how much each of them counts.

:func:`schedule_explorer` is the widget, :func:`figure` and :func:`describe` say the same without a kernel at hand.
"""
import io
from collections.abc import Callable
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor

from dreamlab import schedules
from dreamlab.noise import Schedule
from dreamlab.pipelines.dreammapping import Settings
from dreamlab.schedules import Annealed, Cosine, Uniform, dca_lambda, one, sigma2

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "0.85"


@dataclass(frozen=True)
class Recipe:
    """What a run decides about time.

    ``timesteps``, the weight ``w(schedule, t)``, the factor ``lam(schedule, t)`` of the noise that is subtracted (1 but
    for DCA), and ``rate(step, steps)``, which multiplies the learning rates of a run of ``steps``.
    """

    timesteps: Annealed
    weight: Callable[[Schedule, Tensor], Tensor]
    lam: Callable[[Schedule, Tensor], Tensor] = one
    rate: Callable[[int, int], float] = Cosine()
    steps: int = 5000


def dreammapping(settings: Settings) -> Recipe:
    """The recipe of a run of :mod:`dreamlab.pipelines.dreammapping`."""
    timesteps = Annealed(*settings.t_max, until=settings.t_until)
    return Recipe(timesteps, getattr(schedules, settings.weight), dca_lambda, Cosine(), settings.steps)


RECIPES = {
    "DreamFusion (SDS)": Recipe(Uniform(20, 980), sigma2, rate=Cosine(3000, 0.01), steps=15_000),  # its appendix A.2
    "DreamMapping (VDM with DCA)": dreammapping(Settings("")),
    "DreamMapping on the toybox": dreammapping(Settings("").toy()),
}


def known(recipe: str, step: int) -> Recipe:
    """The recipe of that name. ValueError if there is none, or if it has no such step."""
    if recipe not in RECIPES:
        raise ValueError(f"no recipe {recipe!r}; there is: {', '.join(RECIPES)}")
    if not 0 <= step < RECIPES[recipe].steps:
        raise ValueError(f"step must lie in [0, {RECIPES[recipe].steps - 1}], got {step}")
    return RECIPES[recipe]


def describe(recipe: str, step: int) -> str:
    """One line of numbers: the range of t at this step, and sigma, w and lambda at its two ends."""
    r, schedule = known(recipe, step), Schedule.scaled_linear()
    ends = torch.tensor([r.timesteps.t_min, r.timesteps.t_max(step, r.steps)])
    pair = lambda values: " to ".join(f"{v:.2f}" for v in values.tolist())  # noqa: E731
    return (f"step {step} of {r.steps}: t from {ends[0]} to {ends[1]}, sigma {pair((1 - schedule.abar(ends)).sqrt())}, "
            f"w {pair(r.weight(schedule, ends))}, lambda {pair(r.lam(schedule, ends))}, "
            f"learning rates x {r.rate(step, r.steps):.2f}")


def figure(recipe: str, step: int) -> Figure:
    """Four panels: range of t over the steps; alpha, sigma, lambda over t; w over t; learning rate over the steps."""
    r, schedule = known(recipe, step), Schedule.scaled_linear()
    t = torch.arange(len(schedule))
    over = range(0, r.steps, max(r.steps // 300, 1))
    low, high = r.timesteps.t_min, r.timesteps.t_max(step, r.steps)

    fig = Figure(figsize=(12, 2.9), dpi=80, layout="constrained")
    when, level, weight, rate = fig.subplots(1, 4)
    when.fill_between(over, low, [r.timesteps.t_max(s, r.steps) for s in over], color=BLUE, alpha=0.35, lw=0)
    when.set(title="t drawn from", xlabel="step", ylabel="t", ylim=(0, 1000))
    level.plot(t, schedule.abar(t).sqrt(), color=BLUE, label=r"$\alpha_t$")
    level.plot(t, (1 - schedule.abar(t)).sqrt(), color=ORANGE, ls="--", label=r"$\sigma_t$")
    level.plot(t, r.lam(schedule, t), color=GREEN, ls=":", lw=2, label=r"$\lambda_t$")
    level.set(title="signal, noise, DCA", xlabel="t", ylim=(-0.05, 1.1))
    level.legend(fontsize=8, loc="center right")
    weight.semilogy(t, r.weight(schedule, t), color=BLUE)
    weight.set(title="weight w(t)", xlabel="t")
    for ax in (level, weight):
        ax.axvspan(low, high, color=GREY, zorder=0)
    rate.plot(over, [r.rate(s, r.steps) for s in over], color=BLUE)
    rate.set(title="learning rates, times", xlabel="step", ylim=(0, 1.1))
    for ax in (when, rate):
        ax.axvline(step, color="k", lw=1)
    return fig


def png(recipe: str, step: int) -> bytes:
    """:func:`figure` as a PNG."""
    file = io.BytesIO()
    figure(recipe, step).savefig(file, format="png")
    return file.getvalue()


def schedule_explorer(recipe: str = "DreamMapping on the toybox"):
    """The widget: pick a recipe, drag through its steps. ``.children`` are two controls, a line of numbers, a picture.

    Core ipywidgets, so the keyboard is enough; no Output widget, so an error is seen.
    """
    import ipywidgets as W

    names = W.Dropdown(options=list(RECIPES), value=recipe, description="recipe", layout=W.Layout(width="24em"))
    steps = W.IntSlider(description="step", continuous_update=False, max=known(recipe, 0).steps - 1,
                        layout=W.Layout(width="40em"))
    line, picture = W.Label(), W.Image(format="png")

    def show(change=None):
        if change and change.owner is names:
            steps.max, steps.value = RECIPES[names.value].steps - 1, 0
        line.value = picture.tooltip = describe(names.value, steps.value)
        picture.value = png(names.value, steps.value)

    for control in (names, steps):
        control.observe(show, "value")
    show()
    return W.VBox([names, steps, line, picture])
