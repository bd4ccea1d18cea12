"""Variational score distillation (VSD): ProlificDreamer, arXiv 2305.16213; and what every rule with a critic shares."""
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from dreamlab.cameras import Cameras
from dreamlab.checks import Positive
from dreamlab.priors.base import Guidance, Prior, guide
from dreamlab.priors.critic import Critic, comparable, lora, rate
from dreamlab.prompts import Cond, Prompt
from dreamlab.rules.base import Residual, Rule
from dreamlab.schedules import sigma2
from dreamlab.types import Sample, Steps

LORA = partial(lora)


@dataclass
class CriticRule(Rule):
    """A rule that holds a critic, the score of what is being rendered: its state is the critic's."""

    critic: Critic

    @classmethod
    def for_prior(cls, prior: Prior, *, seed: int = 0, critic_rate: Positive | None = None, critic: partial = LORA,
                  **settings) -> "CriticRule":
        """``critic``: LoRA on the prior's UNet or another's, at its card's or the published rate if none is given (without a
        UNet the exact critic); or "identity", which takes the renders as they are: SDS with this weight."""
        return cls(critic(prior, rate(prior, critic_rate, 1e-4), seed), **settings)

    def fit(self, x: Sample, t: Steps, cond: Cond, camera: Cameras | None) -> Tensor:
        """One step of the critic under ``cond``, at its own t ~ U[0, T) and noise (arXiv 2305.16213), not the residual's t."""
        t, eps = self.critic.draw(x)
        return self.critic.fit(x, t, eps, cond, camera)

    def state_dict(self):
        return self.critic.state_dict()

    def load_state_dict(self, state):
        self.critic.load_state_dict(state)


@dataclass
class VSD(CriticRule):
    """w(t) [eps_null + s (eps_y - eps_null) - eps_phi(x_t, t, y, c)] (Algorithm 1), eps_phi fitted to the renders.

    The critic takes its step first. With the exact critic of one render, eps_phi is the noise that was added, and VSD is SDS;
    with that of many it descends KL(renders || prior), so that they spread out like the prior instead of meeting at its mode.
    ``guidance`` is diffusers' s, the paper's 7.5; the critic has none. ``weight``: sigma_t² (threestudio).
    """

    guidance: Guidance = 7.5
    weight: Callable = sigma2

    @torch.no_grad()
    def __call__(self, prior: Prior, x: Sample, t: Steps, eps: Sample, prompt: Prompt,
                 camera: Cameras | None = None) -> Residual:
        comparable(self.critic, prior)
        x_t = prior.add_noise(x, eps, t)
        eps_y, eps_null = prior.predict(x_t, t, prompt)
        loss = self.fit(x, t, prompt.positive, camera)
        eps_phi = self.critic.eps(x_t, t, prompt.positive, camera)
        parts = {"conditional": eps_y, "unconditional": eps_null, "noise": eps, "variational": eps_phi}
        return self.weigh(prior, t, guide(eps_y, eps_null, self.guidance) - eps_phi, parts, loss)
