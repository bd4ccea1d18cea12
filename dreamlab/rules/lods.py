"""Learned denoising scores (LODS): "Learn to Optimize Denoising Scores", arXiv 2312.04820."""
from collections.abc import Callable
from dataclasses import dataclass

import torch

from dreamlab.cameras import Cameras
from dreamlab.checks import Positive
from dreamlab.priors.base import Guidance, Prior
from dreamlab.priors.critic import EmbeddingCritic, comparable, learnable, lora, rate
from dreamlab.prompts import Prompt
from dreamlab.rules.base import Residual
from dreamlab.rules.vsd import CriticRule
from dreamlab.schedules import sigma2
from dreamlab.types import Sample, Steps


@dataclass
class LODS(CriticRule):
    """w(t) [eps_y - (1 - 1/s) eps_psi - eps / s], the same as (1/s) [eps_psi + s (eps_y - eps_psi) - eps].

    SDS whose null prediction is learnt, divided by s. eps_psi is the frozen model under a learnt embedding
    (``EmbeddingCritic``, the default where the condition is a tensor) or LoRA under the *null* prompt
    (``LODS(LoRACritic(prior))``; official LoRA weight 0.5 and rate 5e-7). DreamMapping's Table 1 shows the limit of large s,
    eps_y - eps_psi, with a LoRA that sees y, and adds a guidance term, of which there is none. ``guidance``: the published s,
    1000 (100 in 2D).
    """

    guidance: Guidance = 1000.0
    weight: Callable = sigma2
    reads_perp = False

    @classmethod
    def for_prior(cls, prior: Prior, *, seed: int = 0, critic_rate: Positive | None = None, **settings) -> "LODS":
        """With a learnt embedding, by default at the card's or the published rate; where there is none the exact critic."""
        lr = rate(prior, critic_rate, 1e-5)
        return cls(EmbeddingCritic(prior, lr, seed) if learnable(prior.null) else lora(prior, lr, seed), **settings)

    @torch.no_grad()
    def __call__(self, prior: Prior, x: Sample, t: Steps, eps: Sample, prompt: Prompt,
                 camera: Cameras | None = None) -> Residual:
        comparable(self.critic, prior)
        if prompt.perp:
            raise ValueError("LODS (arXiv 2312.04820) has no guided prediction that Perp-Neg could move: choose another rule "
                             "or leave perp_neg out")
        x_t, s = prior.add_noise(x, eps, t), self.guidance
        eps_y, = prior.eps(x_t, t, prompt.positive)
        loss = self.fit(x, t, prompt.null, camera)
        eps_psi = self.critic.eps(x_t, t, prompt.null, camera)
        parts = {"conditional": eps_y, "noise": eps, "variational": eps_psi}
        return self.weigh(prior, t, eps_y - (1 - 1 / s) * eps_psi - eps / s, parts, loss)
