"""Score distillation sampling (SDS): DreamFusion, arXiv 2209.14988."""
from collections.abc import Callable
from dataclasses import dataclass

import torch

from dreamlab.cameras import Cameras
from dreamlab.checks import NotNegative
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
    """

    guidance: NotNegative = 101.0
    weight: Callable = sigma2

    @torch.no_grad()
    def __call__(self, prior: Prior, x: Sample, t: Steps, eps: Sample, prompt: Prompt,
                 camera: Cameras | None = None) -> Residual:
        eps_y, eps_null = prior.predict(prior.add_noise(x, eps, t), t, prompt)
        direction = guide(eps_y, eps_null, self.guidance) - eps
        return self.weigh(prior, t, direction, {"conditional": eps_y, "unconditional": eps_null, "noise": eps})
