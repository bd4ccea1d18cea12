"""Classifier score distillation (CSD), arXiv 2310.19415. Not the collaborative score distillation of arXiv 2307.04787."""
from collections.abc import Callable
from dataclasses import dataclass

import torch

from dreamlab.cameras import Cameras
from dreamlab.checks import Share
from dreamlab.priors.base import Prior
from dreamlab.prompts import Prompt
from dreamlab.rules.base import Residual, Rule
from dreamlab.schedules import sigma2
from dreamlab.types import Sample, Steps


@dataclass
class CSD(Rule):
    """w(t) [eps_y - c eps_neg - (1 - c) eps_null]: the coefficients sum to 0, so no noise is left in it.

    At c = 0 it is the guidance term alone, (SDS(s) - SDS(0)) / s, and there is no s to choose: Adam takes out the scale.
    DreamMapping's Table 1 writes eps_y - lambda eps_neg, which for lambda < 1 would leave noise; CSD never does. The official
    recipes move c over a run, 0 to 1 in the first stage and 1 to 0.5 in the second. ``negative`` is c, in [0, 1], of
    prompt.negative; ``weight``: sigma_t² (their second stage; 1 in the first).
    """

    negative: Share = 0.0
    weight: Callable = sigma2
    reads_negative = True

    @torch.no_grad()
    def __call__(self, prior: Prior, x: Sample, t: Steps, eps: Sample, prompt: Prompt,
                 camera: Cameras | None = None) -> Residual:
        x_t, c = prior.add_noise(x, eps, t), self.negative
        more = [prompt.negative] if c else []  # what would be multiplied by 0 is not predicted
        eps_y, eps_null, *eps_neg = prior.predict(x_t, t, prompt, *more)
        parts, direction = {"conditional": eps_y, "unconditional": eps_null}, eps_y - (1 - c) * eps_null
        for x in eps_neg:
            parts["negative"], direction = x, direction - c * x
        return self.weigh(prior, t, direction, parts)
