"""The forward process and its algebra: x_t = alpha_t x + sigma_t eps, with alpha_t² + sigma_t² = 1.

alpha_t = sqrt(abar_t), sigma_t = sqrt(1 - abar_t), abar = ``alphas_cumprod`` as in diffusers (DDPM, arXiv 2006.11239,
Eq. 4). DreamFusion and DreamMapping write the same; DreamFlow's sigma(t) is our sigma_t / alpha_t.
"""
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from dreamlab.checks import Range, check
from dreamlab.types import Sample, Steps

Seed = Annotated[int, Range(-(10**11), 10**11)]


def per_sample(values: Shaped[Tensor, "b"], like: Tensor) -> Tensor:
    """Values (B,) shaped (B, 1, ..., 1), with the dtype and device of ``like`` (B, ...), so that they multiply it."""
    return values.to(like).reshape(-1, *[1] * (like.ndim - 1))


def randn(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard normal noise on the generator's device: a CPU generator gives one seed the same noise everywhere."""
    return torch.randn(shape, generator=generator, device=generator.device)


def seeded(seed: int, step: int = 0) -> torch.Generator:
    """The CPU generator of one step, a function of (seed, step): a resumed run draws what it would have drawn.

    ValueError for a seed beyond +-10^11.
    """
    check("seed", seed, Seed)
    return torch.Generator().manual_seed(seed * 10_000_019 + step)


def subseed(seed: int, name: str, index: int = 0) -> int:
    """A seed in [0, 2^62) for what has a name, a function of (seed, name, index): no two names share random numbers."""
    check("seed", seed, int)
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}/{index}".encode()).digest()[:8]) >> 2


def stream(seed: int, name: str, index: int = 0) -> torch.Generator:
    """The CPU generator of whatever a run draws besides its steps: "start", "operator", "critic weights", ..."""
    return torch.Generator().manual_seed(subseed(seed, name, index))


@dataclass(frozen=True, eq=False)
class Schedule:
    """A variance-preserving noise schedule. ``alphas_cumprod`` has shape (T,), falls with t, and lies in (0, 1).

    ``set_alpha_to_one``, as in diffusers: whether the last step of :func:`ddim_sample` ends at the clean sample (abar = 1), or
    at the first step's abar_0, as Stable Diffusion's schedulers and the bundled prior's do.
    """

    alphas_cumprod: Float[Tensor, "T"]
    set_alpha_to_one: bool = True

    @classmethod
    def scaled_linear(cls, T: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> "Schedule":
        """Stable Diffusion's schedule: sqrt(beta) linear from start to end, abar_t = prod_{i <= t} (1 - beta_i)."""
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, T) ** 2
        return cls(torch.cumprod(1 - betas, 0))

    def __len__(self) -> int:
        return len(self.alphas_cumprod)

    def to(self, device) -> "Schedule":
        return Schedule(self.alphas_cumprod.to(device), self.set_alpha_to_one)

    def abar(self, t: Steps) -> Float[Tensor, "b"]:
        """abar_t, shape (B,). ValueError where t lies outside [0, T)."""
        if (outside := t[(t < 0) | (t >= len(self))]).numel():
            raise ValueError(f"t must lie in [0, {len(self) - 1}], got {int(outside[0])}: change it")
        return self.alphas_cumprod.to(t.device)[t]

    def alpha(self, t: Steps, like: Tensor) -> Tensor:
        """alpha_t = sqrt(abar_t), shaped to multiply ``like`` (B, ...)."""
        return per_sample(self.abar(t).sqrt(), like)

    def sigma(self, t: Steps, like: Tensor) -> Tensor:
        """sigma_t = sqrt(1 - abar_t), shaped to multiply ``like`` (B, ...)."""
        return per_sample((1 - self.abar(t)).sqrt(), like)

    def add_noise(self, x: Sample, eps: Sample, t: Steps) -> Sample:
        """x_t = alpha_t x + sigma_t eps."""
        return self.alpha(t, x) * x + self.sigma(t, x) * eps

    def x0(self, x_t: Sample, eps: Sample, t: Steps) -> Sample:
        """The denoised sample, (x_t - sigma_t eps) / alpha_t."""
        return (x_t - self.sigma(t, x_t) * eps) / self.alpha(t, x_t)

    def eps_from_x0(self, x_t: Sample, x: Sample, t: Steps) -> Sample:
        """The inverse of :meth:`x0`: (x_t - alpha_t x) / sigma_t."""
        return (x_t - self.alpha(t, x_t) * x) / self.sigma(t, x_t)

    def v(self, x: Sample, eps: Sample, t: Steps) -> Sample:
        """Velocity, alpha_t eps - sigma_t x (arXiv 2202.00512, appendix D)."""
        return self.alpha(t, x) * eps - self.sigma(t, x) * x

    def eps_from_v(self, x_t: Sample, v: Sample, t: Steps) -> Sample:
        """eps = alpha_t v + sigma_t x_t."""
        return self.alpha(t, x_t) * v + self.sigma(t, x_t) * x_t

    def ddim_step(self, x_t: Sample, eps: Sample, t: Steps, s: Steps) -> Sample:
        """One DDIM step t -> s without added noise: x_s = alpha_s x0 + sigma_s eps (arXiv 2010.02502, Eq. 12).

        s may be larger than t (inversion); s = -1 is the clean sample (abar = 1).
        """
        abar = torch.where(s < 0, 1.0, self.abar(s.clamp(min=0)))
        return per_sample(abar.sqrt(), x_t) * self.x0(x_t, eps, t) + per_sample((1 - abar).sqrt(), x_t) * eps


def ddim_timesteps(steps: int, T: int = 1000, offset: int = 0) -> Int[Tensor, "steps"]:
    """``steps`` timesteps, T // steps apart, largest first: diffusers' "leading" spacing with its ``steps_offset``."""
    if not 1 <= steps <= T:
        raise ValueError(f"steps must lie in [1, {T}], got {steps}")
    return torch.arange(steps).mul(T // steps).flip(0) + offset


def ddim_follow(eps: Callable, x: Sample, schedule: Schedule, times: list[Steps]) -> Sample:
    """x at ``times[0]``, carried by DDIM through times[1], ...: upwards this is inversion. -1, at the end only, is clean.

    ``eps(x_t, t)`` predicts the noise; a sample whose t does not change between two times stays as it is.
    """
    for t, s in pairwise(times):
        x = schedule.ddim_step(x, eps(x, t), t, s)
    return x


def ddim_sample(eps: Callable, x: Sample, schedule: Schedule, steps: int = 25, offset: int = 0) -> Sample:
    """From noise x to a clean sample by ``steps`` DDIM steps; ``eps(x_t, t)`` predicts the noise.

    Clean, or at abar_0 where the schedule ends there (``set_alpha_to_one`` False): then what was noised by 0.03 stays so.
    """
    times = ddim_timesteps(steps, len(schedule), offset).tolist()
    last = max(times[-1] - len(schedule) // steps, -1 if schedule.set_alpha_to_one else 0)
    return ddim_follow(eps, x, schedule, [torch.full((len(x),), t, device=x.device) for t in [*times, last]])
