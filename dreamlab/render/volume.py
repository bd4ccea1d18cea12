"""Volume rendering of a density field along rays (NeRF, arXiv 2003.08934, Eq. 3; Max 1995).

With samples at distances t_i, spaced delta_i, of density d_i and colour c_i,

    alpha_i = 1 - exp(-d_i delta_i),   T_i = prod_{j<i} (1 - alpha_j) = exp(-sum_{j<i} d_j delta_j),

the pixel is sum_i T_i alpha_i c_i, and the background shows through with what is left, 1 - sum_i T_i alpha_i. That is exact
for piecewise constant density and colour. Samples in empty space are left out: :func:`occupied` says where that is, and on CUDA
an :class:`Occupancy`. With neither, the torch code below takes them all, and is the definition.
"""
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dreamlab.cameras import Cameras
from dreamlab.types import Render, Samples

Density = Callable[[Tensor], Tensor]  # points (n, 3) -> density (n,) >= 0, in 1 / world unit
Field = Callable[[Tensor], tuple[Tensor, Tensor]]  # points (n, 3) -> density, rgb (n, 3) in [0, 1]
Sky = Callable[[Tensor], Tensor]  # unit directions (n, 3) -> rgb (n, 3) in [0, 1], of what lies behind everything


def weights(density: Float[Tensor, "*r s"], delta: Float[Tensor, "*r s"]) -> Float[Tensor, "*r s"]:
    """T_i alpha_i of samples in order along each ray. ``density`` in 1 / world unit, ``delta`` in world units, both >= 0."""
    thickness = density * delta
    transmittance = torch.exp(-(thickness.cumsum(-1) - thickness))
    return transmittance * -torch.expm1(-thickness)


def alpha_weights(alpha: Float[Tensor, "*r s"]) -> Float[Tensor, "*r s"]:
    """T_i alpha_i of opacities in order along each ray."""
    return alpha * torch.cumprod(torch.cat([torch.ones_like(alpha[..., :1]), 1 - alpha[..., :-1]], -1), -1)


def inside_ball(origins: Float[Tensor, "r 3"], directions: Float[Tensor, "r 3"],
                radius: float) -> tuple[Float[Tensor, "r"], Float[Tensor, "r"]]:
    """Distances at which unit rays enter and leave the ball around the origin; equal, so nothing, where they miss it."""
    nearest = -(origins * directions).sum(-1)
    half = (radius**2 - (origins.square().sum(-1) - nearest**2)).clamp(min=0).sqrt()
    return (nearest - half).clamp(min=0), (nearest + half).clamp(min=0)


def normals(density: Density, points: Float[Tensor, "n 3"], step: float = 1e-2) -> Float[Tensor, "n 3"]:
    """Unit normals, against the gradient of the density, from central differences ``step`` world units to either side.

    They can be differentiated once more, which torch's interpolation of grids cannot.
    """
    shift = step * torch.eye(3).to(points)
    around = density((points + torch.cat([shift, -shift])[:, None]).reshape(-1, 3)).reshape(2, 3, -1)
    return F.normalize((around[1] - around[0]).T, dim=-1)


@torch.no_grad()
def occupied(density: Density, radius: float, device: torch.device, lost: float = 0.05,
             cells: int = 32) -> Bool[Tensor, "c c c"]:
    """Which cells of the cube around the ball hold something: a function of the density as it is now, and of nothing before.

    A cell is empty where density * 2 radius, the thickness of the longest ray if all of it were so, is below ``lost`` at its
    middle and at those of the cells around it: so a ray misses about ``lost`` of its thickness at most, and that much of its
    light. What fits between the places looked at, ``2 radius / cells`` apart, may be missed as a whole.
    """
    middle = radius * ((torch.arange(cells, device=device) + 0.5) * (2 / cells) - 1)
    thickness = 2 * radius * density(torch.cartesian_prod(middle, middle, middle)).reshape(1, 1, cells, cells, cells)
    return F.max_pool3d(thickness, 3, stride=1, padding=1)[0, 0] >= lost


class Occupancy:
    """The same on CUDA: nerfacc's grid (arXiv 2305.04966), which remembers what it saw and also stops behind what is opaque.

    Samples are ``step`` world units apart from where a ray enters the ball, as on its longest rays without a grid. Those in
    empty cells are left out, and those that less than 1e-4 of the light reaches. A cell is empty where density * step is
    below ``lost`` / samples, and below its mean over the cells, at the places looked at, one a cell: so a ray misses about
    ``lost`` of its thickness at most.
    nerfacc's values: 128 cells a side, looked at every 16 renders that have gradients, with a memory of 0.95.
    """

    def __init__(self, density: Density, radius: float, samples: int, device: torch.device,
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


def within(cells: Bool[Tensor, "c c c"], points: Float[Tensor, "n 3"], radius: float) -> Int[Tensor, "m"]:
    """Which of the points lie in a cell that is :func:`occupied`."""
    n = len(cells)
    x, y, z = ((points / radius + 1) * (n / 2)).long().clamp(0, n - 1).unbind(-1)
    return cells.flatten()[(x * n + y) * n + z].nonzero()[:, 0]


def volume(field: Field, cameras: Cameras, resolution: int, background: Float[Tensor, "3"] | Float[Tensor, "b 3"] | Sky,
           samples: int = 64, radius: float = 1.0, generator: torch.Generator | None = None,
           occupancy: Occupancy | Bool[Tensor, "c c c"] | None = None) -> Render:
    """Draw a field inside a ball for each camera: ``samples`` a ray, evenly spaced, and jittered if a generator is given, each
    by itself. Those outside the cells that are :func:`occupied`, if these are given, have no density, and the field is not
    asked. An :class:`Occupancy` chooses the samples itself, jittered all of a ray by the same part of their distance.

    Depth is the mean camera z of what a pixel sees, weighted by T alpha, and 0 where it sees nothing. Rays that miss the
    ball cost nothing. Differentiable in the field, and in a background that is a function of the direction. ValueError for a
    size below 1, or another number of backgrounds.
    """
    *seen, taken = composite(field, cameras, resolution, background, samples, radius, generator, occupancy)
    return Render(*seen, samples=taken)


def composite(field: Callable, cameras: Cameras, resolution: int, background: Tensor | Callable, samples: int, radius: float,
              generator: torch.Generator | None, occupancy: Occupancy | Bool[Tensor, "c c c"] | None) -> tuple:
    """:func:`volume` for a field of any c numbers in place of colours: these over the background (b, h, w, c), alpha, depth,
    and the samples."""
    if resolution < 1 or samples < 1:
        raise ValueError(f"resolution and samples must be at least 1, got {resolution} and {samples}")
    if isinstance(background, Tensor) and background.ndim == 2 and len(background) != len(cameras):
        raise ValueError(f"background must be (3,) or ({len(cameras)}, 3), one a camera, got {tuple(background.shape)}")
    eyes, directions = cameras.rays(resolution)
    shape = directions.shape[:3]
    forward = cameras.viewmats[:, None, None, 2, :3].to(directions)
    along = (directions * forward).sum(-1).flatten()  # camera z of one unit along the ray
    origins, directions = eyes[:, None, None].expand(*shape, 3).reshape(-1, 3), directions.reshape(-1, 3)
    near, far = inside_ball(origins, directions, radius)
    if isinstance(occupancy, Occupancy):
        from nerfacc import render_weight_from_density
        offset = torch.zeros(len(near)) if generator is None else torch.rand(len(near), generator=generator)
        ray, start, end = occupancy.sample(origins, directions, near + occupancy.step * offset.to(near), far)
        t = (start + end) / 2
        points = origins[ray] + t[:, None] * directions[ray]
        density, rgb = field(points)
        w, _, _ = render_weight_from_density(start, end, density, ray_indices=ray, n_rays=len(origins))
    else:
        hit = (far > near).nonzero()[:, 0]
        delta = ((far - near)[hit] / samples)[:, None].expand(-1, samples)
        place = torch.full((len(hit), 1), 0.5) if generator is None else torch.rand(len(hit), samples, generator=generator)
        t = near[hit, None] + delta * (torch.arange(samples).to(delta) + place.to(delta))
        points = (origins[hit, None] + t[..., None] * directions[hit, None]).reshape(-1, 3)
        taken = torch.arange(len(points), device=points.device) if occupancy is None else within(occupancy, points, radius)
        points, ray = points[taken], hit[taken // samples]
        density, rgb = field(points)
        w = weights(density.new_zeros(t.numel()).index_put((taken,), density).reshape(t.shape), delta).flatten()[taken]
        t = t.flatten()[taken]
    seen = w * torch.cat([rgb.T, (t * along[ray])[None], torch.ones_like(t)[None]])  # rgb, depth and alpha of each sample
    image = seen.new_zeros(len(seen), len(origins)).index_add(1, ray, seen)
    rgb, depth, alpha = image.T.reshape(*shape, -1).split([len(seen) - 2, 1, 1], -1)
    if isinstance(background, Tensor):
        behind = background.to(rgb).reshape(-1, 1, 1, rgb.shape[-1])
    else:
        behind = background(directions).reshape(*shape, -1)
    return (rgb + (1 - alpha) * behind, alpha, depth / alpha.clamp(min=1e-10), Samples(points, w.detach(), ray, directions))


def neus_alpha(ends: Float[Tensor, "*r n"], sharpness: Float[Tensor, ""] | float) -> Float[Tensor, "*r m"]:
    """Opacities of the sections between places along a ray, from the signed distances there (NeuS, arXiv 2106.10689, Eq. 13):

        alpha_i = max((Phi(f_i) - Phi(f_{i+1})) / Phi(f_i), 0),   Phi(f) = 1 / (1 + exp(-s f)).

    Where a ray leaves (f rises) they are 0. As long as f falls, their weights T_i alpha_i go as Phi(f_i) - Phi(f_{i+1}), along
    the ray as s Phi (1 - Phi) |f'|, with the peak where f = 0: unbiased. ``sharpness`` is s, in 1 / world unit.
    """
    phi = torch.sigmoid(ends * sharpness)
    return ((phi[..., :-1] - phi[..., 1:]) / phi[..., :-1].clamp(min=1e-7)).clamp(0, 1)
