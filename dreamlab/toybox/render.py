"""Ground truth: sphere tracing of toybox objects, for any camera and resolution.

A picture is linear in the object's main colour and in the background, ``rgb = fixed + main * colour + empty * background``,
so :func:`trace` renders the three layers once and :meth:`Layers.rgb` paints them in any colours.
"""
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from dreamlab.cameras import Cameras
from dreamlab.mesh import Mesh, lattice, marching_tetrahedra
from dreamlab.toybox.objects import Body, Toy, colour_rgb
from dreamlab.types import Render


@dataclass
class Layers:
    """``fixed`` (B, H, W, 3), ``main`` (B, H, W, 1) weight of the main colour, ``alpha``, ``depth``, ``normal``."""

    fixed: Float[Tensor, "b h w 3"]
    main: Float[Tensor, "b h w 1"]
    alpha: Float[Tensor, "b h w 1"]
    depth: Float[Tensor, "b h w 1"]
    normal: Float[Tensor, "b h w 3"]

    def rgb(self, colour: Tensor, background: Tensor) -> Float[Tensor, "b h w 3"]:
        """Paint: ``colour`` and ``background`` are (3,) or (B, 3) in [0, 1]."""
        colour, background = (c.reshape(-1, 1, 1, 3) for c in (colour, background))
        return self.fixed + self.main * colour + (1 - self.alpha) * background


def shade(normal: Float[Tensor, "n 3"], view: Float[Tensor, "n 3"]) -> Float[Tensor, "n 1"]:
    """Sky from above and a little light from the camera; between 0.4 and 1. ``view`` points from the camera."""
    sky = 0.5 + 0.5 * normal[:, 2:]
    head = (-(normal * view).sum(-1, keepdim=True)).clamp_min(0)
    return 0.40 + 0.35 * sky + 0.25 * head


def blur(x: Float[Tensor, "n c h w"], sigma: float) -> Float[Tensor, "n c h w"]:
    """Gaussian blur of sigma pixels, as a product with the matrix of normalised weights from either side."""
    at = torch.arange(x.shape[-1], dtype=x.dtype)
    weights = (-0.5 * ((at[:, None] - at) / sigma) ** 2).softmax(1)
    return weights @ x @ weights.T


@torch.no_grad()
def trace(toy: Body, cameras: Cameras, resolution: int, supersample: int = 2, steps: int = 64) -> Layers:
    """Sphere-trace ``toy``: each ray advances by the distance until it is under 1e-3 of the surface or has left.

    ``supersample``: rays per pixel and axis, averaged. Depth is along the camera's z axis, averaged over the rays that hit.
    """
    size = resolution * supersample
    origins, directions = cameras.rays(size)
    forward = cameras.viewmats[:, 2, :3]
    o = origins[:, None, None].expand_as(directions).reshape(-1, 3)
    d = directions.reshape(-1, 3)
    # Start where the ray enters the ball that holds the object, and drop the rays that miss it.
    bound = 0.9 * toy.scale
    b = (o * d).sum(-1)
    disc = b**2 - (o * o).sum(-1) + bound**2
    live = (disc > 0).nonzero()[:, 0]
    far = -b + disc.clamp_min(0).sqrt()
    depth = (-b - disc.clamp_min(0).sqrt()).clamp_min(0)
    hit = torch.zeros_like(depth, dtype=torch.bool)
    slow = 0.7 if toy.warp else 0.9  # a warp bends distances, and an ellipsoid's is a bound to first order only
    for _ in range(steps):
        if len(live) == 0:
            break
        distance = toy.sdf(o[live] + depth[live, None] * d[live])
        close = distance < 1e-3
        hit[live[close]] = True
        depth[live] = depth[live] + torch.where(close, 0, slow * distance)
        live = live[~close & (depth[live] < far[live])]
    index = hit.nonzero()[:, 0]
    p, view = o[index] + depth[index, None] * d[index], d[index]
    n = toy.normal(p) if len(index) else p
    fixed, main = toy.paint(p) if len(index) else (p, p[:, 0])
    light = shade(n, view)
    z = (depth[index, None] * view * forward.repeat_interleave(size * size, 0)[index]).sum(-1, keepdim=True)
    flat = torch.zeros(len(d), 9, dtype=d.dtype)
    flat[index] = torch.cat([fixed * light, main[:, None] * light, torch.ones_like(z), z, n], -1)
    image = flat.view(len(cameras), size, size, 9).permute(0, 3, 1, 2)
    image = torch.nn.functional.avg_pool2d(image, supersample).permute(0, 2, 3, 1)
    fixed, main, alpha, z, n = image.split([3, 1, 1, 1, 3], -1)
    return Layers(fixed, main, alpha, z / alpha.clamp_min(1e-6) * (alpha > 0), torch.nn.functional.normalize(n, dim=-1))


def untextured(layers: Layers, cameras: Cameras) -> Layers:
    """What the cameras traced, with the main colour everywhere."""
    rays = cameras.rays(layers.alpha.shape[1])[1]
    light = shade(layers.normal.reshape(-1, 3), rays.reshape(-1, 3)).view_as(layers.alpha)
    return replace(layers, fixed=torch.zeros_like(layers.fixed), main=light * layers.alpha)


def render(toy: Toy, colour: str | Tensor, cameras: Cameras, resolution: int = 64, background=(1.0, 1.0, 1.0)) -> Render:
    """Ground-truth render of ``toy`` in a colour of the toybox, or in any rgb (3,), over ``background`` in [0, 1]."""
    main = torch.tensor(colour_rgb(colour)) if isinstance(colour, str) else colour
    layers = trace(toy, cameras, resolution)
    return Render(layers.rgb(main, torch.as_tensor(background, dtype=torch.float32)), layers.alpha, layers.depth, layers.normal)


def surface(toy: Toy, colour: str, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """n coloured points of the surface: positions (n, 3), and colours (n, 3) under the sky's light alone."""
    p = toy.surface_points(n, generator)
    fixed, main = toy.paint(p)
    light = shade(toy.normal(p), torch.zeros_like(p)) + 0.15
    return p, ((fixed + main[:, None] * torch.tensor(colour_rgb(colour))) * light).clamp(0, 1)


def mesh(toy: Toy, colour: str, resolution: int = 96) -> Mesh:
    """The surface by marching tetrahedra of ``resolution`` values per axis, unlit."""
    places = lattice(resolution, 0.95 * toy.scale)
    values = torch.cat([toy.sdf(chunk) for chunk in places.view(-1, 3).split(1 << 17)]).view(places.shape[:3])
    vertices, faces = marching_tetrahedra(values, places)
    fixed, main = toy.paint(vertices)
    return Mesh(vertices, faces, fixed + main[:, None] * torch.tensor(colour_rgb(colour)))
