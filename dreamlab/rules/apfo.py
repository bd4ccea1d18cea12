"""Approximate probability flow ODE (APFO): DreamFlow, arXiv 2403.14966."""
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from dreamlab.cameras import Cameras
from dreamlab.prompts import Cond
from dreamlab.rules.vsd import VSD
from dreamlab.schedules import Grid
from dreamlab.types import Sample, Steps


@dataclass
class APFO(VSD):
    """|sigma_{i+1} - sigma_i| [eps_null + s (eps_y - eps_null) - eps_phi]: VSD on a falling grid of t, weighted by its steps.

    One Euler step of the probability flow from the renders to the prior is x + (dsigma / sigma) (D_phi - D_p), with D the
    denoised samples, sigma = sigma_t / alpha_t and dsigma < 0 (Eq. 12). As D = (x_t - sigma_t eps) / alpha_t, that is plain
    gradient descent, with rate 1, on this residual. The paper slips twice: line 9 of Algorithm 1 has D_p - D_phi with the
    same dsigma, which runs away from the prior, and Eq. 13 multiplies by the step in t once more. We follow Eq. 12.

    The critic is fitted at the residual's own t, not at t ~ U[0, T), with fresh noise. ``grid`` must be the stage's
    timesteps, too. ``guidance``: none is published; 7.5 as in VSD, in diffusers' convention.
    """

    grid: Grid = field(default_factory=Grid)
    weight: Callable | None = None  # None: the grid's

    def __post_init__(self):
        super().__post_init__()
        self.weight = self.weight or self.grid.weight

    @property
    def timesteps(self) -> Grid:
        return self.grid

    def fit(self, x: Sample, t: Steps, cond: Cond, camera: Cameras | None) -> Tensor:
        """One step of the critic at these t, with noise of its own (Algorithm 1, lines 6 to 8)."""
        _, eps = self.critic.draw(x)
        return self.critic.fit(x, t, eps, cond, camera)
