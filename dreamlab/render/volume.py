"""Volume rendering of a density field along rays (NeRF, arXiv 2003.08934, Eq. 3; Max 1995).

With samples at distances t_i, spaced delta_i, of density d_i and colour c_i,

    alpha_i = 1 - exp(-d_i delta_i),   T_i = prod_{j<i} (1 - alpha_j) = exp(-sum_{j<i} d_j delta_j),

the pixel is sum_i T_i alpha_i c_i, and the background shows through with what is left, 1 - sum_i T_i alpha_i. That is exact
for piecewise constant density and colour. An :class:`Occupancy` leaves out the samples that nobody would see; with none the
torch code below takes them all, and is the definition.
"""
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dreamlab.cameras import Cameras
from dreamlab.types import Render

Field = Callable[[Tensor], tuple[Tensor, Tensor]]  # points (n, 3) -> density (n,) >= 0, rgb (n, 3) in [0, 1]


def weights(density: Float[Tensor, "*r s"], delta: Float[Tensor, "*r s"]) -> Float[Tensor, "*r s"]:
    """T_i alpha_i of samples in order along each ray. ``density`` in 1 / world unit, ``delta`` in world units, both >= 0."""
    thickness = density * delta
    transmittance = torch.exp(-(thickness.cumsum(-1) - thickness))
    return transmittance * -torch.expm1(-thickness)


def inside_ball(origins: Float[Tensor, "r 3"], directions: Float[Tensor, "r 3"],
                radius: float) -> tuple[Float[Tensor, "r"], Float[Tensor, "r"]]:
    """Distances at which unit rays enter and leave the ball around the origin; equal, so nothing, where they miss it."""
    nearest = -(origins * directions).sum(-1)
    half = (radius**2 - (origins.square().sum(-1) - nearest**2)).clamp(min=0).sqrt()
    return (nearest - half).clamp(min=0), (nearest + half).clamp(min=0)


class Occupancy:
    """Which cells of the cube around the ball hold something: nerfacc's grid (arXiv 2305.04966), on CUDA only.

    Samples are ``step`` world units apart from where a ray enters the ball, as on its longest rays without a grid. Those in
    empty cells are left out, and those that less than 1e-4 of the light reaches. A cell is empty where density * step is
    below ``lost`` / samples, and below its mean over the cells, at the places looked at, one a cell: so a ray misses about
    ``lost`` of its thickness at most.
    nerfacc's values: 128 cells a side, looked at every 16 renders that have gradients, with a memory of 0.95.
    """

    def __init__(self, density: Callable[[Tensor], Tensor], radius: float, samples: int, device: torch.device,
                 lost: float = 0.01, cells: int = 128):
        from nerfacc import OccGridEstimator
        self.density, self.step, self.threshold, self.renders = density, 2 * radius / samples, lost / samples, 0
        self.grid = OccGridEstimator([-radius] * 3 + [radius] * 3, cells).to(device)

    def look(self) -> None:
        """Call before a render: counts it, and looks again where it is time. The places come from that count as the seed."""
        if torch.is_grad_enabled() or not self.renders:
            with torch.random.fork_rng([self.grid.device] if self.grid.device.type == "cuda" else []):
                torch.manual_seed(self.renders)
                self.grid.update_every_n_steps(self.renders, lambda x: self.density(x) * self.step, self.threshold)
            self.renders += 1

    def sample(self, origins: Float[Tensor, "r 3"], directions: Float[Tensor, "r 3"], near: Float[Tensor, "r"],
               far: Float[Tensor, "r"]) -> tuple[Int[Tensor, "n"], Float[Tensor, "n"], Float[Tensor, "n"]]:
        """Of each sample, ray after ray and in order: its ray, and the distances at which its piece starts and ends."""
        def density(start, end, ray):
            return self.density(origins[ray] + ((start + end) / 2)[:, None] * directions[ray])

        return self.grid.sampling(origins, directions, density, t_min=near, t_max=far, render_step_size=self.step)


def volume(field: Field, cameras: Cameras, resolution: int, background: Float[Tensor, "3"] | Float[Tensor, "b 3"],
           samples: int = 64, radius: float = 1.0, generator: torch.Generator | None = None,
           occupancy: Occupancy | None = None) -> Render:
    """Draw a field inside a ball for each camera: ``samples`` a ray, evenly spaced, and jittered if a generator is given: each
    by itself, or those of an ``occupancy``, which chooses them then, all of a ray by the same part of their distance.

    Depth is the mean camera z of what a pixel sees, weighted by T alpha, and 0 where it sees nothing. Rays that miss the
    ball cost nothing. Differentiable in the field. ValueError for a size below 1, or another number of backgrounds.
    """
    if resolution < 1 or samples < 1:
        raise ValueError(f"resolution and samples must be at least 1, got {resolution} and {samples}")
    if background.ndim == 2 and len(background) != len(cameras):
        raise ValueError(f"background must be (3,) or ({len(cameras)}, 3), one a camera, got {tuple(background.shape)}")
    eyes, directions = cameras.rays(resolution)
    shape = directions.shape[:3]
    forward = cameras.viewmats[:, None, None, 2, :3].to(directions)
    along = (directions * forward).sum(-1).flatten()  # camera z of one unit along the ray
    origins, directions = eyes[:, None, None].expand(*shape, 3).reshape(-1, 3), directions.reshape(-1, 3)
    near, far = inside_ball(origins, directions, radius)
    if occupancy:
        from nerfacc import render_weight_from_density
        offset = torch.zeros(len(near)) if generator is None else torch.rand(len(near), generator=generator)
        ray, start, end = occupancy.sample(origins, directions, near + occupancy.step * offset.to(near), far)
        t = (start + end) / 2
        density, rgb = field(origins[ray] + t[:, None] * directions[ray])
        w, _, _ = render_weight_from_density(start, end, density, ray_indices=ray, n_rays=len(origins))
        features = torch.cat([rgb, (t * along[ray])[:, None], torch.ones_like(rgb[:, :1])], -1)  # rgb, depth, alpha
        image = features.new_zeros(len(origins), 5).index_add(0, ray, w[:, None] * features)
    else:
        hit = (far > near).nonzero()[:, 0]
        delta = ((far - near)[hit] / samples)[:, None].expand(-1, samples)
        place = torch.full((len(hit), 1), 0.5) if generator is None else torch.rand(len(hit), samples, generator=generator)
        t = near[hit, None] + delta * (torch.arange(samples).to(delta) + place.to(delta))
        points = origins[hit, None] + t[..., None] * directions[hit, None]
        density, rgb = field(points.reshape(-1, 3))
        w = weights(density.reshape(t.shape), delta)
        features = torch.cat([rgb.reshape(*t.shape, 3), (t * along[hit, None])[..., None]], -1)
        seen = torch.cat([(w[..., None] * features).sum(1), w.sum(1, keepdim=True)], -1)  # rgb, depth, alpha
        image = seen.new_zeros(len(origins), 5).index_copy(0, hit, seen)
    rgb, depth, alpha = image.reshape(*shape, 5).split([3, 1, 1], -1)
    behind = background.to(rgb).reshape(-1, 1, 1, 3)
    return Render(rgb + (1 - alpha) * behind, alpha, depth / alpha.clamp(min=1e-10))
