"""Consistent3D, arXiv 2401.09050: consistency distillation sampling along a deterministic path."""
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch

from dreamlab.cameras import Cameras
from dreamlab.checks import Range, Timestep
from dreamlab.noise import randn, stream
from dreamlab.priors.base import Guidance, Prior
from dreamlab.prompts import Prompt
from dreamlab.rules.base import Residual, Rule
from dreamlab.schedules import one
from dreamlab.types import Sample, Steps


@dataclass
class Consistent3D(Rule):
    """w(t) [eps(x_u, u) - eps(x_t, t)], both guided; u = t + interval, x_t one Euler step of the flow down from x_u.

    x_u carries one *fixed* noise, the same at every step and view, so that the path is the same each time; the ``eps`` of the
    call is not used. Predictions that agree along the path leave no residual, wherever x is: without guidance, a prior of one
    picture moves nothing. The official sign is this one. DreamMapping's Table 1 gives the row a further guidance term;
    guidance is inside both predictions already.
    ``interval``: the paper's is random in [100, 300), ours its mean; u stops at the schedule's end. ``guidance``: diffusers'
    s for the official 100, later 50. ``seed`` makes the fixed noise. ``weight``: 1 in the first stage, sigma_t² later.
    """

    guidance: Guidance = 101.0
    interval: Timestep = 200
    seed: Annotated[int, Range(-(10**11), 10**11)] = 0
    weight: Callable = one

    @classmethod
    def for_prior(cls, prior: Prior, *, seed: int = 0, **settings) -> "Consistent3D":
        """With the fixed noise of this seed."""
        return cls(seed=seed, **settings)

    @torch.no_grad()
    def __call__(self, prior: Prior, x: Sample, t: Steps, eps: Sample, prompt: Prompt,
                 camera: Cameras | None = None) -> Residual:
        noise = randn((1, *prior.shape), stream(self.seed, "consistent3d")).to(x).expand(x.shape)
        u = (t + self.interval).clamp(max=len(prior.schedule) - 1)
        x_u = prior.add_noise(x, noise, u)
        upper = prior.guided(x_u, u, prompt, self.guidance)
        lower = prior.guided(prior.schedule.ddim_step(x_u, upper, u, t), t, prompt, self.guidance)
        return self.weigh(prior, t, upper - lower, {"prediction": upper, "variational": lower, "noise": noise})
