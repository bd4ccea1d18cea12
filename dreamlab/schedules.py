"""Which timestep, when; how much it counts, w(t); DCA's lambda_t; and learning-rate curves.

Timesteps are objects ``(step, steps, n, generator) -> t (n,)``; weights are functions ``(schedule, t) -> w (n,)``;
curves are objects ``(step, steps) -> factor`` that multiply a learning rate. ``step`` counts from 0 to ``steps`` - 1.
"""
import math
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dreamlab.checks import Count, Positive, Range, Share, Timestep, check_fields
from dreamlab.noise import Schedule
from dreamlab.types import Steps


@dataclass(frozen=True)
class Annealed:
    """t ~ U[t_min, m]: m stays at start_max until share ``since`` of the steps, and falls linearly to end_max by ``until``.

    LucidDreamer's, which DreamMapping keeps: 980 to 500 from t_min 20 over 1500 of 5000 iterations, so until = 0.3, and
    one t for all views of a step (``shared``). With since = until it jumps: ProlificDreamer's 980 to 500 in threestudio is
    ``Annealed(since=0.2, until=0.2)``. Both ends are inclusive. ValueError unless 0 <= t_min <= both maxima.
    """

    start_max: Timestep = 980
    end_max: Timestep = 500
    t_min: Timestep = 20
    until: Annotated[float, Range(0, 1, "low")] = 0.3
    shared: bool = False
    since: Share = 0.0

    def __post_init__(self):
        check_fields(self)
        if not 0 <= self.t_min <= min(self.start_max, self.end_max):
            raise ValueError(f"t_min must lie in [0, {min(self.start_max, self.end_max)}], got {self.t_min}: change it")
        if not 0 <= self.since <= self.until:
            raise ValueError(f"since is a share of the steps in [0, until = {self.until:g}], got {self.since:g}: change it")

    def t_max(self, step: int, steps: int) -> int:
        """The largest t at this step."""
        begin, end = self.since * steps, self.until * steps
        done = (step >= end) if begin == end else min(max((step - begin) / max(end - begin, 1), 0), 1)
        return round(self.start_max + done * (self.end_max - self.start_max))

    def bounds(self, step: int, steps: int) -> tuple[int, int]:
        """The smallest and the largest t at this step."""
        return self.t_min, self.t_max(step, steps)

    def __call__(self, step: int, steps: int, n: int, generator: torch.Generator) -> Steps:
        t = torch.randint(self.t_min, self.t_max(step, steps) + 1, (1 if self.shared else n,), generator=generator,
                          device=generator.device)
        return t.expand(n)


def Uniform(t_min: int = 20, t_max: int = 980, shared: bool = False) -> Annealed:
    """t ~ U[t_min, t_max] at every step (DreamFusion: 0.02 T to 0.98 T; DreamMapping's Algorithm 1: 0 to 999)."""
    return Annealed(t_max, t_max, t_min, shared=shared)


@dataclass(frozen=True)
class DreamTime:
    """Time-prioritised sampling (arXiv 2306.12422): t falls, and lingers where W(t) is large.

    At step i of N all views get the t whose share of the weights above it, sum_{t' >= t} W(t') / sum W, is nearest i / N.
    W is 1 on [m2, m1] and falls off as a Gaussian of width s1 above and s2 below. Ours: t in [t_min, t_max].
    """

    m1: Annotated[float, Range(0, 10**5)] = 800.0
    m2: Annotated[float, Range(0, 10**5)] = 500.0
    s1: Positive = 300.0
    s2: Positive = 100.0
    t_min: Timestep = 20
    t_max: Timestep = 980

    def __post_init__(self):
        check_fields(self)
        if not 0 <= self.t_min <= self.t_max:
            raise ValueError(f"t_min must lie in [0, t_max = {self.t_max}], got {self.t_min}: change it")
        if not self.m2 <= self.m1:
            raise ValueError(f"DreamTime wants m2 <= m1, got m2 {self.m2:g} and m1 {self.m1:g}: swap them")
        if not self.density().sum() > 0:
            raise ValueError(f"no t in [{self.t_min}, {self.t_max}] has any weight, got {self}: change m1 and m2, or s1 and s2")

    def density(self) -> Float[Tensor, "T"]:
        """W(t) at t_min ... t_max."""
        t = torch.arange(self.t_min, self.t_max + 1.0)
        above, below = (t - self.m1).clamp(min=0) / self.s1, (self.m2 - t).clamp(min=0) / self.s2
        return torch.exp(-(above**2 + below**2) / 2)

    def t(self, step: int, steps: int) -> int:
        """The one t of this step."""
        above = self.density().flip(0).cumsum(0).flip(0)
        return self.t_min + int((above / above[0] - step / steps).abs().argmin())

    def bounds(self, step: int, steps: int) -> tuple[int, int]:
        """t, twice."""
        return self.t(step, steps), self.t(step, steps)

    def __call__(self, step: int, steps: int, n: int, generator: torch.Generator) -> Steps:
        return torch.full((n,), self.t(step, steps), device=generator.device)


@dataclass(frozen=True)
class Grid:
    """A predetermined grid of falling timesteps, DreamFlow's (arXiv 2403.14966, section 3.2): t_i, ``views`` steps at each.

    t_i runs evenly from ``start`` to just above ``end``, i = 0 ... points - 1; end = -1 is the clean sample, so the defaults
    are DDIM's grid of 200. ``weight`` is APFO's |sigma_{i+1} - sigma_i|, with DreamFlow's sigma = sigma_t / alpha_t. A run has
    ``points * views`` steps; further ones stay at the last t. DreamFlow: NeRF (999, 199, 800), texture (499, 99, 400), both
    with 5 views; refinement (299, -1, 30) with 10.
    """

    start: Timestep = 999
    end: Annotated[int, Range(-1, 10**5)] = -1
    points: Count = 200
    views: Count = 1

    def __post_init__(self):
        check_fields(self)
        if not -1 <= self.end < self.start:
            raise ValueError(f"the grid falls from start to end >= -1, got {self.start} to {self.end}: change them")
        if not 1 <= self.points <= self.start - self.end:
            raise ValueError(f"points must lie in [1, {self.start - self.end}], got {self.points}: change points, as no t may "
                             "come twice")

    @property
    def steps(self) -> int:
        """The length of a run."""
        return self.points * self.views

    @property
    def t(self) -> Int[Tensor, "points_and_end"]:
        """t_0 ... t_{points - 1}, end."""
        return torch.linspace(self.start, self.end, self.points + 1, dtype=torch.float64).round().long()

    def bounds(self, step: int, steps: int) -> tuple[int, int]:
        """t, twice."""
        t = int(self.t[min(step // self.views, self.points - 1)])
        return t, t

    def __call__(self, step: int, steps: int, n: int, generator: torch.Generator) -> Steps:
        return torch.full((n,), self.bounds(step, steps)[0], device=generator.device)

    def weight(self, schedule: Schedule, t: Steps) -> Float[Tensor, "b"]:
        """|sigma(t) - sigma(next)|, next being the largest t of the grid below t, and sigma(-1) = 0."""
        grid = self.t.flip(0).to(t.device)  # rising
        after = grid[(torch.searchsorted(grid, t) - 1).clamp(min=0)]
        sigma = noise_to_signal(schedule, after.clamp(min=0)) * (after >= 0)
        return (noise_to_signal(schedule, t) - sigma).abs()


def one(schedule: Schedule, t: Steps) -> Float[Tensor, "b"]:
    """w = 1."""
    return torch.ones_like(schedule.abar(t))


def sigma2(schedule: Schedule, t: Steps) -> Float[Tensor, "b"]:
    """w = sigma_t² = 1 - abar_t (DreamFusion, arXiv 2209.14988, after Eq. 3)."""
    return 1 - schedule.abar(t)


def balanced(schedule: Schedule, t: Steps) -> Float[Tensor, "b"]:
    """w = alpha_t sigma_t = sqrt(abar_t (1 - abar_t)): small at both ends."""
    abar = schedule.abar(t)
    return (abar * (1 - abar)).sqrt()


def alpha_sigma2(schedule: Schedule, t: Steps) -> Float[Tensor, "b"]:
    """w = alpha_t sigma_t² = sqrt(abar_t) (1 - abar_t), Fantasia3D's for geometry (arXiv 2303.13873) in threestudio."""
    abar = schedule.abar(t)
    return abar.sqrt() * (1 - abar)


def noise_to_signal(schedule: Schedule, t: Steps) -> Float[Tensor, "b"]:
    """w = sigma_t / alpha_t, LucidDreamer's; it turns a difference of noises into one of denoised samples."""
    abar = schedule.abar(t)
    return ((1 - abar) / abar).sqrt()


WEIGHTS = {w.__name__: w for w in (one, sigma2, balanced, alpha_sigma2, noise_to_signal)}


def dca_lambda(schedule: Schedule, t: Steps, cutoff: int = 300) -> Float[Tensor, "b"]:
    """lambda_t = 1 for t > cutoff, 1 - abar_t for t <= cutoff (DreamMapping, Eq. 18).

    With Stable Diffusion's schedule it jumps from 0.41 at t = 300 to 1. Algorithm 1 writes t < 300; we follow Eq. 18.
    """
    return torch.where(t > cutoff, 1.0, 1 - schedule.abar(t))


def constant(step: int, steps: int) -> float:
    """No decay."""
    return 1.0


@dataclass(frozen=True)
class Cosine:
    """A linear rise over ``warmup`` steps, times half a cosine from 1 at the first step to ``final`` at the last."""

    warmup: Annotated[int, Range(0, 10**7)] = 20
    final: Annotated[float, Range(0, 1, "low")] = 0.2

    def __post_init__(self):
        check_fields(self)

    def decay(self, share: float) -> float:
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * share)) / 2

    def __call__(self, step: int, steps: int) -> float:
        return min((step + 1) / max(self.warmup, 1), 1) * self.decay(step / max(steps - 1, 1))


@dataclass(frozen=True)
class Exponential(Cosine):
    """As :class:`Cosine`, with an exponential fall to ``final`` (the positions of 3D Gaussian splatting)."""

    def decay(self, share: float) -> float:
        return self.final**share


Timesteps = Annealed | DreamTime | Grid
TIMESTEPS = {"Annealed": Annealed(), "DreamTime": DreamTime(), "Grid": Grid()}
CURVES = {"constant": constant, "Cosine": Cosine(), "Exponential": Exponential()}
