"""Adversarial score distillation (ASD), arXiv 2312.00739. Not the adversarial *diffusion* distillation of SDXL-Turbo."""
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from dreamlab.cameras import Cameras
from dreamlab.checks import Range
from dreamlab.priors.base import Guidance
from dreamlab.prompts import Cond
from dreamlab.rules.vsd import VSD
from dreamlab.schedules import sigma2
from dreamlab.types import Sample, Steps


@dataclass
class ASD(VSD):
    """VSD's residual, with a critic that also minimises gamma ||eps_phi - eps_y||², gamma < 0: away from the frozen prior.

    That is the discriminator's other half of a GAN, and what DreamMapping's Table 1 leaves out when it lists ASD as VSD. In
    function space the optimum is eps_phi = (eps_hat + gamma eps_y) / (1 + gamma), eps_hat being VSD's, so without guidance
    the residual is VSD's times 1 / (1 + gamma): four times it at the published -0.75. At ``gamma`` = -1 the
    critic's loss has no minimum.
    """

    guidance: Guidance = 7.5
    weight: Callable = sigma2
    gamma: Annotated[float, Range(-1, 0, "low")] = -0.75

    def fit(self, x: Sample, t: Steps, cond: Cond, camera: Cameras | None) -> Tensor:
        """One step of the critic on both halves, at its own t and noise."""
        t, eps = self.critic.draw(x)
        return self.critic.fit(x, t, eps, cond, camera, pull=self.gamma)
