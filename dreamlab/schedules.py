"""Which timestep, when; how much it counts, w(t); DCA's lambda_t; and learning-rate curves.

Timesteps are objects ``(step, steps, n, generator) -> t (n,)``; weights are functions ``(schedule, t) -> w (n,)``;
curves are objects ``(step, steps) -> factor`` that multiply a learning rate. ``step`` counts from 0 to ``steps`` - 1.
"""
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dreamlab.noise import Schedule
from dreamlab.types import Steps


@dataclass(frozen=True)
class Annealed:
    """t ~ U[t_min, m]: m falls linearly from start_max to end_max over the first ``until`` (0, 1] of the steps.

    LucidDreamer's, which DreamMapping keeps: 980 to 500 from t_min 20 over 1500 of 5000 iterations, so until = 0.3, and
    one t for all views of a step (``shared``). Both ends are inclusive. ValueError unless 0 <= t_min <= both maxima.
    """

    start_max: int = 980
    end_max: int = 500
    t_min: int = 20
    until: float = 0.3
    shared: bool = False

    def __post_init__(self):
        if not 0 <= self.t_min <= min(self.start_max, self.end_max):
            raise ValueError(f"t_min must lie in [0, {min(self.start_max, self.end_max)}], got {self.t_min}")
        if not 0 < self.until <= 1:
            raise ValueError(f"until is a share of the steps in (0, 1], got {self.until:g}")

    def t_max(self, step: int, steps: int) -> int:
        """The largest t at this step."""
        done = min(step / max(self.until * steps, 1), 1)
        return round(self.start_max + done * (self.end_max - self.start_max))

    def __call__(self, step: int, steps: int, n: int, generator: torch.Generator) -> Steps:
        t = torch.randint(self.t_min, self.t_max(step, steps) + 1, (1 if self.shared else n,), generator=generator,
                          device=generator.device)
        return t.expand(n)


def Uniform(t_min: int = 20, t_max: int = 980, shared: bool = False) -> Annealed:
    """t ~ U[t_min, t_max] at every step (DreamFusion: 0.02 T to 0.98 T; DreamMapping's Algorithm 1: 0 to 999)."""
    return Annealed(t_max, t_max, t_min, shared=shared)


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


def noise_to_signal(schedule: Schedule, t: Steps) -> Float[Tensor, "b"]:
    """w = sigma_t / alpha_t, LucidDreamer's; it turns a difference of noises into one of denoised samples."""
    abar = schedule.abar(t)
    return ((1 - abar) / abar).sqrt()


def dca_lambda(schedule: Schedule, t: Steps, cutoff: int = 300) -> Float[Tensor, "b"]:
    """lambda_t = 1 for t > cutoff, 1 - abar_t for t <= cutoff (DreamMapping, Eq. 18).

    With Stable Diffusion's schedule it jumps from 0.41 at t = 300 to 1. Algorithm 1 writes t < 300; we follow Eq. 18.
    """
    return torch.where(t > cutoff, 1.0, 1 - schedule.abar(t))


@dataclass(frozen=True)
class Cosine:
    """A linear rise over ``warmup`` steps, times half a cosine from 1 at the first step to ``final`` at the last."""

    warmup: int = 20
    final: float = 0.2

    def decay(self, share: float) -> float:
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * share)) / 2

    def __call__(self, step: int, steps: int) -> float:
        return min((step + 1) / max(self.warmup, 1), 1) * self.decay(step / max(steps - 1, 1))


@dataclass(frozen=True)
class Exponential(Cosine):
    """As :class:`Cosine`, with an exponential fall to ``final`` (the positions of 3D Gaussian splatting)."""

    def decay(self, share: float) -> float:
        return self.final**share
