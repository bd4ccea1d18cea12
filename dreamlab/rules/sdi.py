"""Score distillation via inversion (SDI): "Score Distillation via Reparametrized DDIM", arXiv 2405.15891."""
from collections.abc import Callable
from dataclasses import dataclass

import torch

from dreamlab.cameras import Cameras
from dreamlab.checks import Count
from dreamlab.noise import ddim_follow
from dreamlab.priors.base import Guidance, Prior
from dreamlab.prompts import Prompt
from dreamlab.rules.base import Residual, Rule
from dreamlab.schedules import sigma2
from dreamlab.types import Sample, Steps


@dataclass
class SDI(Rule):
    """w(t) [eps_null + s (eps_y - eps_null) - kappa], at the x_t that DDIM inversion of x leads to; kappa is the noise in it.

    kappa = (x_t - alpha_t x) / sigma_t, so the direction is (alpha_t / sigma_t) (x - denoised(x_t)): SDS with its random noise
    replaced by the one the model itself would have come from. Inversion starts at x noised at index 0 and takes steps of
    ``stride``, the official 10 over the whole schedule. ``guidance`` 8.5 is diffusers' s for threestudio's 7.5, which
    multiplies (eps_y - eps_null) on top of eps_y; it inverts with -7.5, so ``inversion_guidance`` is 2 - guidance where it is
    not given. It also shakes every inversion step with random noise (eta 0.3) and overshoots t by a random amount; both are
    left out here, as the derivation has neither.
    """

    guidance: Guidance = 8.5
    inversion_guidance: float | None = None
    stride: Count = 100
    weight: Callable = sigma2

    @torch.no_grad()
    def __call__(self, prior: Prior, x: Sample, t: Steps, eps: Sample, prompt: Prompt,
                 camera: Cameras | None = None) -> Residual:
        s = 2 - self.guidance if self.inversion_guidance is None else self.inversion_guidance
        times = [t.clamp(max=k) for k in range(0, int(t.max()) + self.stride, self.stride)]
        x_t = ddim_follow(lambda x_k, k: prior.guided(x_k, k, prompt, s),
                          prior.add_noise(x, eps, times[0]), prior.schedule, times)
        kappa = prior.schedule.eps_from_x0(x_t, x, t)
        towards = prior.schedule.eps_from_x0(x_t, self.target(prior, x_t, t, prompt), t)
        return self.weigh(prior, t, towards - kappa, {"prediction": towards, "variational": kappa})

    def target(self, prior: Prior, x_t: Sample, t: Steps, prompt: Prompt) -> Sample:
        """The denoised sample of one step."""
        return prior.schedule.x0(x_t, prior.guided(x_t, t, prompt, self.guidance), t)
