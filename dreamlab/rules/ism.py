"""Interval score matching (ISM): LucidDreamer, arXiv 2311.11284."""
from collections.abc import Callable
from dataclasses import dataclass

import torch

from dreamlab.cameras import Cameras
from dreamlab.checks import Count, Timestep
from dreamlab.noise import ddim_follow
from dreamlab.priors.base import Guidance, Prior, guide
from dreamlab.prompts import Prompt
from dreamlab.rules.base import Residual, Rule
from dreamlab.schedules import noise_to_signal
from dreamlab.types import Sample, Steps


@dataclass
class ISM(Rule):
    """w(t) [eps_null(x_t, t) + s (eps_y(x_t, t) - eps_null(x_t, t)) - eps_null(x_s, s)], s = t - interval.

    x_s and x_t lie on one path: x, noised at index 0 as in the official code, is carried up by DDIM inversion under the null
    prompt, in steps of ``stride`` to s and in one more to t. The same (x, t) always gets nearly the same x_t, so the pseudo
    ground truths agree. ``interval``: 25 to 80 in the official recipes, after a warm-up from 100. ``guidance``: diffusers' s.
    """

    guidance: Guidance = 7.5
    interval: Timestep = 50
    stride: Count = 200
    weight: Callable = noise_to_signal

    @torch.no_grad()
    def __call__(self, prior: Prior, x: Sample, t: Steps, eps: Sample, prompt: Prompt,
                 camera: Cameras | None = None) -> Residual:
        s = (t - self.interval).clamp(min=0)
        times = [s.clamp(max=k) for k in range(0, int(s.max()) + self.stride, self.stride)]
        x_s = ddim_follow(lambda x_k, k: prior.eps(x_k, k, prompt.null)[0], prior.add_noise(x, eps, times[0]),
                          prior.schedule, times)
        eps_s, = prior.eps(x_s, s, prompt.null)
        x_t = prior.schedule.ddim_step(x_s, eps_s, s, t)
        eps_y, eps_null = prior.predict(x_t, t, prompt)
        parts = {"conditional": eps_y, "unconditional": eps_null, "variational": eps_s}
        return self.weigh(prior, t, guide(eps_y, eps_null, self.guidance) - eps_s, parts)
