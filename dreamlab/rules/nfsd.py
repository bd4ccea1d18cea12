"""Noise-free score distillation (NFSD), arXiv 2310.17590."""
from collections.abc import Callable
from dataclasses import dataclass

import torch

from dreamlab.cameras import Cameras
from dreamlab.noise import per_sample
from dreamlab.priors.base import Guidance, Prior
from dreamlab.prompts import Prompt
from dreamlab.rules.base import Cutoff, Residual, Rule
from dreamlab.schedules import sigma2
from dreamlab.types import Sample, Steps


@dataclass
class NFSD(Rule):
    """w(t) [delta_D + s (eps_y - eps_null)], delta_D = eps_null for t < cutoff, else eps_null - eps_neg.

    delta_D is the direction to the manifold of pictures with the noise taken out. DreamMapping's Table 1 writes the same as
    eps_y - lambda_t eps_neg + (s - 1) (eps_y - eps_null), lambda_t = 1 for t >= cutoff, else 0. The paper's negative prompt
    names bad pictures ("unrealistic, blurry, ..."); a prior that never saw any has no such prompt, and with the null one in
    its place delta_D is 0 for t >= cutoff. ``guidance``: diffusers' s, 7.5.
    """

    guidance: Guidance = 7.5
    cutoff: Cutoff = 200
    weight: Callable = sigma2
    reads_negative = True

    @torch.no_grad()
    def __call__(self, prior: Prior, x: Sample, t: Steps, eps: Sample, prompt: Prompt,
                 camera: Cameras | None = None) -> Residual:
        x_t = prior.add_noise(x, eps, t)
        eps_y, eps_null, eps_neg = prior.predict(x_t, t, prompt, prompt.negative)
        delta_d = eps_null - per_sample(t >= self.cutoff, x) * eps_neg
        parts = {"conditional": eps_y, "unconditional": eps_null, "negative": eps_neg}
        return self.weigh(prior, t, delta_d + self.guidance * (eps_y - eps_null), parts)
