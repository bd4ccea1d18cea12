"""Score distillation sampling with learned manifold corrective (LMC-SDS), arXiv 2401.05293. Reconstructed from its abstract."""
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamlab.cameras import Cameras
from dreamlab.checks import Range, check
from dreamlab.learner import Learner, select, under
from dreamlab.noise import randn, stream, subseed
from dreamlab.priors.base import Guidance, Prior, guide
from dreamlab.prompts import Prompt
from dreamlab.rules.base import Residual, Rule
from dreamlab.schedules import sigma2
from dreamlab.types import Sample, Steps

Pretrain = Annotated[int, Range(0, 10**6)]


class Shallow(nn.Module):
    """b(x_t, t): two hidden layers, convolutions for pictures and linear for points, that also see sigma_t."""

    def __init__(self, shape: tuple[int, ...], width: int = 32, seed: int = 0):
        super().__init__()
        layer = (lambda a, b: nn.Conv2d(a, b, 3, padding=1)) if len(shape) == 3 else nn.Linear
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.ModuleList([layer(shape[0] + 1, width), layer(width, width), layer(width, shape[0])])

    def forward(self, x_t: Sample, sigma: Tensor) -> Sample:
        h = torch.cat([x_t, sigma.expand(len(x_t), 1, *x_t.shape[2:])], 1)
        for layer in self.layers[:-1]:
            h = F.silu(layer(h))
        return self.layers[-1](h)


@dataclass
class LMCSDS(Rule):
    """w(t) [eps_null + s (eps_y - eps_null) - b(x_t, t)], b trained once, beforehand, to mimic eps_null with a shallow network.

    What a shallow network can predict of the model's output is the noise and the blur that depend on t alone; taken off, they
    leave the direction to the manifold of pictures. The abstract says so much; architecture, loss and data are ours: b
    minimises ||b(x_t, t) - eps_null(x_t, t)||² over samples of the prior. The paper works with denoised samples, we
    with noise, as DreamMapping's Table 1 does. ``guidance``: diffusers' s; unpublished, 7.5 is DreamMapping's.
    """

    b: nn.Module
    guidance: Guidance = 7.5
    weight: Callable = sigma2

    def __post_init__(self):
        super().__post_init__()
        self.learner = Learner(self.b, lr=2e-3)

    @classmethod
    def for_prior(cls, prior: Prior, *, seed: int = 0, pretrain: Pretrain = 100, **settings) -> "LMCSDS":
        """With a shallow network trained for ``pretrain`` steps on samples of the prior."""
        check("pretrain", pretrain, Pretrain)
        rule = cls(Shallow(prior.shape, seed=subseed(seed, "lmc weights")).to(prior.device), **settings)
        prompt, generator = Prompt(prior.null, prior.null), stream(seed, "lmc pretraining")
        x = prior.sample(prompt, 16, generator, steps=10) if pretrain else None
        for _ in range(pretrain):
            t = torch.randint(len(prior.schedule), (16,), generator=generator).to(x.device)
            rule.fit(prior, x, t, randn(tuple(x.shape), generator).to(x))
        return rule

    def fit(self, prior: Prior, x: Sample, t: Steps, eps: Sample) -> Tensor:
        """One step of b on real samples x; returns the loss before it. Not called while distilling."""
        x_t = prior.add_noise(x, eps, t)
        with torch.no_grad():
            eps_null, = prior.eps(x_t, t, prior.null)
        self.learner.to(x_t.device)
        with torch.enable_grad():
            return self.learner.step((self.b(x_t, prior.schedule.sigma(t, x_t)) - eps_null).square().mean())

    @torch.no_grad()
    def __call__(self, prior: Prior, x: Sample, t: Steps, eps: Sample, prompt: Prompt,
                 camera: Cameras | None = None) -> Residual:
        x_t = prior.add_noise(x, eps, t)
        eps_y, eps_null = prior.predict(x_t, t, prompt)
        b = self.b(x_t, prior.schedule.sigma(t, x_t))
        parts = {"conditional": eps_y, "unconditional": eps_null, "noise": eps, "variational": b}
        return self.weigh(prior, t, guide(eps_y, eps_null, self.guidance) - b, parts)

    def state_dict(self):
        return under("b", self.learner.state_dict())

    def load_state_dict(self, state):
        self.learner.load_state_dict(select(state, "b"))
