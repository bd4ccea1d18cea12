"""Gaussians that grow (adaptive density control: Kerbl et al. 2023, arXiv 2308.04079, Sec. 5.2), at LucidDreamer's values."""
import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from dreamlab.checks import Positive, Range, Share, check_fields
from dreamlab.noise import randn
from dreamlab.render.splat import quats_to_matrices
from dreamlab.scenes.base import Scene
from dreamlab.scenes.gaussians import Gaussians
from dreamlab.types import Render

Iteration = Annotated[int, Range(0, 10**7)]


@dataclass
class Growth:
    """Adds Gaussians where the pictures pull hard on their centres, and removes those that show nothing.

    The pull on a Gaussian is the mean, over all views that drew it since the last growth, of |dL / dm'|: L is the loss of
    that one view, and its centre m' is measured in half images (2 / resolution a pixel), as in 3DGS. So a threshold means
    the same for any number of views a step, in a loss that is their mean, and for any resolution, as far as L does.

    Every ``every`` iterations, counted from 1, a Gaussian with a pull of at least ``gradient`` is cloned, or split if its
    largest scale is above ``split``: two drawn from it, 1.6 times smaller, take its place. Then whatever has an opacity
    below ``opacity`` is removed, and after iteration ``wide_since`` whatever is larger than ``wide``. Every ``reset``
    iterations opacities are lowered to ``reset_to``, so that only what is needed comes back.

    The defaults are LucidDreamer's (arXiv 2311.11284, its published settings and code). It looks at the last view of a
    batch only, and its loss is a sum over views times 0.1: its threshold 7.5e-4 is 7.5e-3 in a loss without that factor.
    It also asks for a radius of at most 20 of 512 pixels, but clears its radii before it compares them, which removes
    nothing: ``screen`` is None here. It grows before Adam's step, we after it. ``most`` is ours.
    """

    since: Iteration = 100  # no growth up to and with this iteration
    until: Iteration = 3000  # none from this one on, and no reset
    every: Annotated[int, Range(1, 10**7)] = 100  # iterations
    gradient: Positive = 7.5e-3  # loss of one view per half image; 7.5e-4 / 0.1
    split: Positive = 0.0105  # world units: 0.003 of LucidDreamer's extent, 3.5
    opacity: Share = 0.005
    wide: Positive = 0.35  # world units: 0.1 of that extent
    wide_since: Iteration = 300  # ``wide`` and ``screen`` count after this iteration
    screen: Positive | None = None  # radius in images, e.g. 20 / 512; None: any
    reset: Annotated[int, Range(1, 10**7)] | None = 300  # iterations; None: never
    reset_to: Share = 0.01
    most: Annotated[int, Range(1, 10**7)] = 300_000  # Gaussians: those with the strongest pull grow as long as there is room

    def __post_init__(self):
        check_fields(self)
        if not 0 <= self.opacity < self.reset_to < 1:
            raise ValueError(f"0 <= opacity < reset_to < 1 must hold, or a reset removes all: got opacity {self.opacity:g} "
                             f"and reset_to {self.reset_to:g}: change them")
        self.load_state_dict({})

    def check(self, scene: Scene) -> None:
        """ValueError for a scene that does not grow."""
        if "means" not in scene.parameters():
            raise ValueError(f"growth is for Gaussians, got a {type(scene).__name__}: leave growth out, growth=none")

    def observe(self, render: Render) -> None:
        """Take note of a render after the backward pass of a loss that is the mean over its views."""
        if render.means2d is None or render.radii is None:
            raise ValueError("this render has no means2d and radii: only Gaussians grow, leave growth out for other scenes")
        if render.means2d.grad is None:
            raise ValueError("no gradient has reached render.means2d: observe a render after loss.backward()")
        views, resolution = render.rgb.shape[:2]
        pull = render.means2d.grad.norm(dim=-1) * views * resolution / 2  # 0 where it is not drawn
        seen = {"pull": pull.sum(0), "views": (render.radii > 0).all(-1).sum(0).to(pull),
                "radius": render.radii.amax((0, 2)) / resolution}
        if self.seen and len(self.seen["pull"]) != len(seen["pull"]):
            raise ValueError(f"the render shows {len(seen['pull'])} Gaussians, those before it {len(self.seen['pull'])}: "
                             "one Growth serves one scene")
        before = {name: self.seen[name].to(now) if self.seen else torch.zeros_like(now) for name, now in seen.items()}
        self.seen = {"pull": before["pull"] + seen["pull"], "views": before["views"] + seen["views"],
                     "radius": torch.maximum(before["radius"], seen["radius"])}

    @torch.no_grad()
    def __call__(self, step: int, scene: Gaussians, optimiser: torch.optim.Optimizer, generator: torch.Generator) -> None:
        """After the optimiser's ``step`` (from 0): grow, remove and reset, if it is time. Moments of Adam go with their
        Gaussians, and start from 0 for new ones, and at a reset for all opacities; the optimiser's own count of steps stays.

        The leaves of the scene are new tensors then. ValueError if no Gaussian would be left; nothing is changed.
        """
        iteration = step + 1
        if iteration >= self.until:
            return
        if iteration > self.since and iteration % self.every == 0:
            self.grow(scene, optimiser, generator, iteration > self.wide_since)
        if self.reset and iteration % self.reset == 0:
            leaf = scene.raw["opacities"]
            leaf.clamp_(max=math.log(self.reset_to / (1 - self.reset_to)))
            for name, moment in optimiser.state.get(leaf, {}).items():
                if name != "step":
                    moment.zero_()

    @torch.no_grad()
    def grow(self, scene: Gaussians, optimiser: torch.optim.Optimizer, generator: torch.Generator, settled: bool) -> None:
        """Clone, split and remove by what was seen, and forget it. ``wide`` and ``screen`` count once it is ``settled``."""
        n = len(scene)
        if not self.seen or len(self.seen["pull"]) != n:
            raise ValueError(f"no render of these {n} Gaussians was observed since they grew: call observe after backward")
        pull = self.seen["pull"] / self.seen["views"].clamp(min=1)
        strongest = pull.argsort(descending=True, stable=True)[:max(self.most - n, 0)]
        growing = torch.zeros_like(pull, dtype=torch.bool).index_fill(0, strongest, True) & (pull >= self.gradient)
        large = scene.scales.amax(-1) > self.split
        rows = lambda chosen: chosen.nonzero()[:, 0]  # noqa: E731
        kept, halves = rows(~(growing & large)), rows(growing & large).repeat(2)
        parents = torch.cat([kept, rows(growing & ~large), halves])
        new = torch.arange(len(parents), device=parents.device) >= len(kept)
        raw = {name: leaf[parents] for name, leaf in scene.raw.items()}
        axes = quats_to_matrices(scene.quats[halves]) * scene.scales[halves, None]  # R diag(s)
        raw["means"][len(parents) - len(halves):] += (axes * randn((len(halves), 1, 3), generator).to(axes)).sum(-1)
        raw["scales"][len(parents) - len(halves):] -= math.log(1.6)
        stays = raw["opacities"].sigmoid() >= self.opacity
        if settled:
            stays &= raw["scales"].exp().amax(-1) <= self.wide
            if self.screen is not None:
                stays &= new | (self.seen["radius"][parents] <= self.screen)
        if not stays.any():
            raise ValueError(f"none of {n} Gaussians would be left, with opacity={self.opacity:g} and wide={self.wide:g}; the "
                             "scene holds the last good state: lower opacity or raise wide in Growth, or lower the rates")
        parents, new = parents[stays], new[stays]
        for name, old in scene.parameters().items():
            leaf = scene.raw[name] = raw[name][stays].requires_grad_()
            for group in optimiser.param_groups:
                group["params"] = [leaf if p is old else p for p in group["params"]]
            if old in optimiser.state:
                at_rest = new.reshape(-1, *[1] * (leaf.ndim - 1))
                optimiser.state[leaf] = {k: v if k == "step" else torch.where(at_rest, 0, v[parents])
                                         for k, v in optimiser.state.pop(old).items()}
        self.seen = {}

    def state_dict(self) -> dict[str, Tensor]:
        """What was seen since the last growth: summed pull, number of views and largest radius (in images) of each."""
        return dict(self.seen)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.seen = dict(state)
