"""From one scene to another."""
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from dreamlab.cameras import orbit
from dreamlab.checks import Inside, Positive
from dreamlab.scenes.base import Begin
from dreamlab.scenes.gaussians import Gaussians, Points
from dreamlab.types import Render


@torch.no_grad()
def seen(render: Callable[..., Render], resolution: int = 64) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
    """The surface that a scene shows: points in world units and their colours, a point for each pixel with alpha > 1/2.

    ``render(cameras, resolution, background)`` is asked for twelve azimuths at elevations 15 and -15 and one view from above,
    over white; the depth of the pixels is unprojected.
    """
    cameras = orbit([*range(0, 360, 30), *range(15, 360, 30), 0], [15.0] * 12 + [-15.0] * 12 + [80.0])
    shown = render(cameras, resolution, torch.ones(3))
    inside = shown.alpha[..., 0].cpu() > 0.5
    return cameras.unproject(shown.depth.cpu())[inside], shown.rgb.cpu()[inside]


def surface(begin: Begin, *, of: str = "", points: Points = 3000, opacity: Inside = 0.5, spread: Positive = 0.6) -> Gaussians:
    """A Gaussian at each of some points of the surface that the part ``of`` shows, in the colour that it shows there."""
    found, colours = seen(begin.earlier(of).render)
    if len(found) < 4:
        raise ValueError(f"the part {of!r} shows {len(found)} points of a surface and Gaussians need 4: give it more steps")
    chosen = torch.randint(len(found), (points,), generator=begin.generator)
    shift = 2e-2 * torch.randn(points, 3, generator=begin.generator)  # about a pixel, so that no two lie on one spot
    return Gaussians.from_points(found[chosen] + shift, colours[chosen].clamp(0, 1), opacity, spread)
