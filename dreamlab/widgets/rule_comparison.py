"""The rule comparison: two rules side by side along the optimisation.

:func:`compare` and :func:`record` run and remember; :func:`rule_comparison` is the widget over what they have recorded, and
:func:`figure` and :func:`describe` say the same without a kernel at hand. The widget itself runs nothing.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from dreamlab.methods import METHODS
from dreamlab.pipeline import Asked, work
from dreamlab.priors.base import Prior
from dreamlab.settings import CHOICES, options
from dreamlab.stage import Stage, run
from dreamlab.widgets import BLUE, ORANGE, to_png


@dataclass
class History:
    """A recorded run of ``steps`` steps, in K pictures kept and one number a step.

    ``kept`` are the numbers of steps *done* when the pictures (K, n, H, W, 3) in [0, 1] were taken: 0 is the start. Entry i of
    the lists belongs to the step that leads from i done to i + 1: ``t`` its largest t, ``residual`` the mean over the pictures
    of ||residual||, w(t) included, ``loss`` the mean square of the residual, ``fit`` the loss of what the rule learns, or None.
    """

    name: str
    kept: list[int]
    pictures: Float[Tensor, "k n h w 3"]
    t: list[int]
    residual: list[float]
    loss: list[float]
    fit: list[float | None]

    @property
    def steps(self) -> int:
        return len(self.t)


def shown(stage: Stage) -> Float[Tensor, "n h w 3"]:
    """The pictures as they are now."""
    with torch.no_grad():
        return stage.scene.render().rgb.detach().float().clamp(0, 1).cpu().clone()


def record(stage: Stage, name: str, every: int = 10, progress: bool = True) -> History:
    """Run a stage whose scene is a ``Picture``; keep its pictures at the start, after each ``every`` steps, and at the end."""
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}: it is the number of steps between two pictures")
    history = History(name, [0], shown(stage)[None], [], [], [], [])
    pictures = [history.pictures[0]]
    for step in run(stage, progress=progress):
        r, done = step.residual, step.step + 1
        history.t.append(int(step.t.max()))
        history.residual.append(r.value.flatten(1).norm(dim=1).mean().item())
        history.loss.append(step.loss)
        history.fit.append(None if r.loss is None else r.loss.item())
        if done % every == 0 or done == stage.steps:
            history.kept.append(done)
            pictures.append(shown(stage))
    history.pictures = torch.stack(pictures)
    return history


def ask(prompt: str, rule: str, steps: int, seed: int = 0, changes: dict[str, Any] | None = None) -> Asked:
    """Pictures by a rule in so many steps, which are the points of its grid where it has one of its own.

    ``changes`` are further settings of the method text2image by path: ``{"rates.latents": 0.1}``.
    """
    length = "rule.grid.points" if "grid" in options(CHOICES["rule"].get(rule)) else "steps"
    return METHODS["text2image"].ask(prompt, seed=seed, changes={"rule": rule, length: steps} | (changes or {}))


def compare(prior: Prior, prompt: str, rules: Sequence[str] = ("SDS", "VDM"), steps: int = 150, every: int = 10, seed: int = 0,
            progress: bool = True, changes: dict[str, Any] | None = None) -> dict[str, History]:
    """Run each rule from the same noise, and record it: {rule: History}.

    ``steps`` and ``changes`` are those of :func:`ask`, the same for all. Runs made otherwise, by :func:`record`, can join the
    dict.
    """
    asked = {rule: ask(prompt, rule, steps, seed, changes) for rule in rules}  # all named before any runs
    return {rule: record(item.stage, rule, every, progress) for rule in asked for item in work(asked[rule], prior=prior)}


def at(history: History, step: int) -> int:
    """Where in ``history.kept`` a step stands. ValueError if it was not kept."""
    if step not in history.kept:
        raise ValueError(f"{history.name} has no picture after {step} steps; there is one after: "
                         f"{', '.join(map(str, history.kept))}")
    return history.kept.index(step)


def numbers(history: History, step: int) -> str:
    at(history, step)
    if step == 0:
        return f"{history.name} has not begun"
    i = step - 1
    fit = "it learns nothing" if history.fit[i] is None else f"loss of what it learns {history.fit[i]:.3g}"
    return (f"{history.name} with t up to {history.t[i]}, residual norm {history.residual[i]:.3g}, "
            f"mean square {history.loss[i]:.3g}, {fit}")


def describe(history_a: History, history_b: History, step: int) -> str:
    """One line of numbers about the last of ``step`` steps, for each."""
    return f"After {step} of {history_a.steps} steps: {numbers(history_a, step)}; {numbers(history_b, step)}"


def figure(history_a: History, history_b: History, step: int) -> Figure:
    """Left: the pictures of both after ``step`` steps, up to four each. Right, over the steps, with a line at this one: the
    residual's norm, and where a rule learns something the loss of that. ValueError for a step that was not kept."""
    both = [(history_a, BLUE, "-"), (history_b, ORANGE, "--")]
    rows = [h.pictures[at(h, step)][:4] for h, *_ in both]
    columns = max(len(row) for row in rows)
    fig = Figure(figsize=(1.4 * columns + 4.5, 3.6), dpi=80, layout="constrained")
    left, right = fig.subfigures(1, 2, width_ratios=[1.4 * columns, 4.5])
    for axes, row, (history, *_) in zip(left.subplots(2, columns, squeeze=False), rows, both, strict=True):
        for ax in axes:
            ax.axis("off")
        for ax, image in zip(axes, row.numpy(), strict=False):
            ax.imshow(image, interpolation="nearest")
        axes[0].set_title(f"{history.name}, {step} steps", loc="left", fontsize=11)
    curves = {"norm of the residual": [h.residual for h, *_ in both]}
    if any(f is not None for h, *_ in both for f in h.fit):
        curves["loss of what is learnt"] = [[float("nan") if f is None else f for f in h.fit] for h, *_ in both]
    panels = right.subplots(len(curves), 1, squeeze=False, sharex=True)[:, 0]
    for ax, (title, values) in zip(panels, curves.items(), strict=True):
        for (history, colour, style), y in zip(both, values, strict=True):
            ax.plot(range(1, history.steps + 1), y, color=colour, ls=style, lw=1.2, label=history.name)
        ax.axvline(step, color="k", lw=1)
        ax.set_title(title, fontsize=11)
    panels[0].set(yscale="log")
    panels[0].legend(fontsize=9)
    panels[-1].set(xlabel="steps done")
    return fig


def png(history_a: History, history_b: History, step: int) -> bytes:
    """:func:`figure` as a PNG."""
    return to_png(figure(history_a, history_b, step))


def rule_comparison(histories: dict[str, History]):
    """The widget over runs that are recorded: two of them, and a slider through the steps both have kept. ``.children`` are
    three controls, a line, a picture. ValueError for fewer than two runs, or for runs that have no kept step in common."""
    import ipywidgets as W

    if len(histories) < 2:
        raise ValueError(f"two runs are compared, got {list(histories)}: make them with compare(prior, prompt, rules=(...))")
    common = sorted(set.intersection(*(set(h.kept) for h in histories.values())))
    if len(common) < 2:
        raise ValueError("the runs keep no step in common but the start: record them with the same every")
    names = list(histories)
    first = W.Dropdown(options=names, value=names[0], description="above")
    second = W.Dropdown(options=names, value=names[1], description="below")
    steps = W.SelectionSlider(options=common, value=common[-1], description="steps done", continuous_update=False,
                              layout=W.Layout(width="40em"))
    line, image = W.HTML(), W.Image(format="png")

    def show(change=None):
        chosen = histories[first.value], histories[second.value], steps.value
        line.value, image.value = escape(describe(*chosen)), png(*chosen)

    for control in (first, second, steps):
        control.observe(show, "value")
    show()
    return W.VBox([first, second, steps, line, image])
