"""Score distillation sampling (SDS): DreamFusion, arXiv 2209.14988."""
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch

from dreamlab.cameras import Cameras
from dreamlab.checks import NotNegative, Range
from dreamlab.noise import per_sample
from dreamlab.priors.base import Prior, guide
from dreamlab.prompts import Prompt
from dreamlab.rules.base import Residual, Rule
from dreamlab.schedules import sigma2
from dreamlab.types import Sample, Steps


@dataclass
class SDS(Rule):
    """w(t) [eps_null + s (eps_y - eps_null) - eps] (Eq. 3, with guidance).

    ``guidance`` is diffusers' s, 0 for the null prompt alone. DreamFusion's omega = 100 multiplies (eps_y - eps_null) on top
    of eps_y: s = 101. Priors trained on the toybox want 4 to 5. ``weight`` is w(schedule, t); DreamFusion's is sigma_t².

    ``rescale`` in [0, 1] holds high guidance back (arXiv 2305.08891, section 3.4; MVDream, arXiv 2308.16512): what the guided
    noise denoises to is multiplied by 1 + rescale (r - 1), r the standard deviation of what eps_y denoises to over its own, of
    all views that the prior sees together. MVDream's gradient, x minus that, is ``weight`` noise_to_signal.
    """

    guidance: NotNegative = 101.0
    weight: Callable = sigma2
    rescale: Annotated[float, Range(0, 1)] = 0.0

    @torch.no_grad()
    def __call__(self, prior: Prior, x: Sample, t: Steps, eps: Sample, prompt: Prompt,
                 camera: Cameras | None = None) -> Residual:
        x_t = prior.add_noise(x, eps, t)
        eps_y, eps_null = prior.predict(x_t, t, prompt)
        guided = guide(eps_y, eps_null, self.guidance)
        if self.rescale:
            own, its = (prior.schedule.x0(x_t, e, t) for e in (eps_y, guided))
            spread, its_spread = (z.reshape(-1, prior.joined * z[0].numel()).std(1) for z in (own, its))
            factor = (1 + self.rescale * (spread / its_spread.clamp(min=1e-8) - 1)).repeat_interleave(prior.joined)
            guided = prior.schedule.eps_from_x0(x_t, per_sample(factor, its) * its, t)
        direction = guided - eps
        return self.weigh(prior, t, direction, {"conditional": eps_y, "unconditional": eps_null, "noise": eps})
