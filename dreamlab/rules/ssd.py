"""Stable score distillation (SSD), arXiv 2312.09305. Reconstructed from the paper's abstract and a third party's code.

Not the score distillation of that name for image editing.
"""
from collections.abc import Callable
from dataclasses import dataclass

import torch

from dreamlab.cameras import Cameras
from dreamlab.noise import per_sample
from dreamlab.priors.base import Prior
from dreamlab.prompts import Prompt
from dreamlab.rules.base import Cutoff, Residual, Rule
from dreamlab.schedules import sigma2
from dreamlab.types import Sample, Steps


@dataclass
class SSD(Rule):
    """w(t) h for t > M, w(t) ||h|| e / ||e|| for t <= M: h = eps_y - eps_null, e = eps_y - eps <eps_y, eps> / ||eps||².

    Above M the mode-seeking guidance term; below it the direction of eps_y with its share of the added noise projected out,
    and the guidance term's length. The two are *switched* by t: DreamMapping's Table 1 adds them and gives SSD an s, and it
    has neither. Products and norms are over each sample; the code we know divides by ||eps|| and sums over the batch, which
    does not project. ``switch`` is M: 100 there, unpublished in the abstract.
    """

    switch: Cutoff = 100
    weight: Callable = sigma2

    @torch.no_grad()
    def __call__(self, prior: Prior, x: Sample, t: Steps, eps: Sample, prompt: Prompt,
                 camera: Cameras | None = None) -> Residual:
        eps_y, eps_null = prior.predict(prior.add_noise(x, eps, t), t, prompt)
        h, inner = eps_y - eps_null, lambda a, b: per_sample((a * b).flatten(1).sum(1), x)
        e = eps_y - inner(eps_y, eps) / inner(eps, eps) * eps
        e = e * (inner(h, h) / inner(e, e).clamp(min=1e-12)).sqrt()
        direction = torch.where(per_sample(t > self.switch, x) > 0, h, e)
        return self.weigh(prior, t, direction, {"conditional": eps_y, "unconditional": eps_null, "noise": eps})
