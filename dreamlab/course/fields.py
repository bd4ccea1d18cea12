"""Self-checks of notebook 11: the weights of a ray's samples, those of a cell's corners, and what faces away."""
from collections.abc import Callable
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.course import judge
from dreamlab.losses import Orientation
from dreamlab.render.volume import weights
from dreamlab.scenes.nerf import HashGrid
from dreamlab.types import Render, Samples


def check_weights(answer: Callable) -> str:
    """Exercise 1: ``weights(density, delta)`` of samples in order along each ray, both (R, S); T_i alpha_i (R, S)."""
    g = torch.Generator().manual_seed(111)
    density, delta = 6 * torch.rand(5, 5, generator=g), 0.05 + 0.2 * torch.rand(5, 5, generator=g)
    right, x = weights(density, delta), density * delta
    alpha, T = 1 - torch.exp(-x), torch.exp(x - x.cumsum(-1))
    return judge(answer(density, delta), right, {
        "T is missing: each sample is dimmed by those before it.": alpha,
        "alpha is missing: T alone is the light that arrives, not what is stopped.": T,
        "T includes the sample's own thickness: light that reaches it has passed only those before it.":
            torch.exp(-x.cumsum(-1)) * alpha,
        "this is T behind the sample, and alpha is missing.": torch.exp(-x.cumsum(-1)),
        "delta is missing: a density is per unit of length, so the thickness is density * delta.":
            weights(density, torch.ones_like(delta)),
        "alpha is 1 - exp(-thickness): the thickness itself is right only where it is small.": T * x,
        "alpha is the density here: it must be 1 - exp(-density * delta).": T * density,
        "T is a product of 1 - thickness here: it must be one of 1 - alpha, which is exp(-thickness).":
            torch.cat([torch.ones_like(x[:, :1]), (1 - x).cumprod(-1)[:, :-1]], -1) * alpha,
        "back to front: this lets the last sample hide the first.": weights(density.flip(-1), delta.flip(-1)).flip(-1),
        "wrong sign in T: light grows fewer along the ray, exp(-sum).": torch.exp(x.cumsum(-1) - x) * alpha,
        "wrong sign: this is exp(-thickness) - 1, which is negative.": -right,
        "wrong sign in alpha: it is 1 - exp(-thickness), which lies in [0, 1].": T * (1 - torch.exp(x)),
        "the sum runs over the rays: samples of a ray are the last axis.":
            torch.exp(x - x.cumsum(0)) * alpha,
        "these are made to sum to 1: what is missing from 1 is the background's.": right / right.sum(-1, keepdim=True),
    }, "thickness = density * delta; alpha = 1 - exp(-thickness); T = exp(-(sum of the thicknesses before)).")


def check_corner_weights(answer: Callable) -> str:
    """Exercise 2: ``corner_weights(x, resolution)``: places (N, 3) in [0, 1]; the weights (N, 8) of their cell's corners."""
    resolution, corners = 3, torch.tensor(list(product((0, 1), repeat=3)))
    x = torch.rand(9, 3, generator=torch.Generator().manual_seed(112))
    grid = HashGrid(1, 1, 64, resolution)
    of_rows = grid.hashed(x, resolution, torch.eye(64))  # a feature for each of the 64 corners: its weight
    low = (x * resolution).floor().long()
    right = torch.stack([of_rows.gather(1, grid.index(low + c, resolution)[:, None])[:, 0] for c in corners], 1)

    def shares(part: Tensor, order: Tensor = corners) -> Tensor:
        return torch.where(order > 0, part[:, None], 1 - part[:, None])

    def mixed(part: Tensor, order: Tensor = corners) -> Tensor:
        return shares(part, order).prod(-1)

    scaled = x * resolution
    part = scaled - scaled.floor()
    return judge(answer(x, resolution), right, {
        "the shares are swapped: near the lower corner its weight is nearly 1.": mixed(1 - part),
        "the corners are in another order: the last coordinate changes first, (0,0,0), (0,0,1), (0,1,0), ...":
            mixed(part, corners.flip(1)),
        "the resolution is missing: x must be counted in cells first.": mixed(x),
        "the cell's place is missing: take off floor(x * resolution), so that what is left lies in [0, 1].": mixed(scaled),
        "this rounds to the nearest corner: the cell begins at the floor.": mixed(scaled - scaled.round()),
        "half a cell off: corners lie at whole numbers of x * resolution.": mixed((scaled - 0.5) - (scaled - 0.5).floor()),
        "there are resolution cells a side, and resolution + 1 corners: multiply by the number of cells.":
            mixed(x * (resolution + 1) - (x * (resolution + 1)).floor()),
        "there are resolution cells a side: do not take one off.":
            mixed(x * (resolution - 1) - (x * (resolution - 1)).floor()),
        "this adds the three shares: multiply them.": shares(part).sum(-1),
        "this takes the mean of the three shares: multiply them.": shares(part).mean(-1),
        "this is the nearest corner alone: all eight have a weight.": mixed(part.round()),
        "this is the lower corner alone: all eight have a weight.": mixed(torch.zeros_like(part)),
    }, "part = x * resolution - floor of it; of each axis the upper corner gets part, the lower 1 - part; multiply the three.")


def check_facing_away(answer: Callable) -> str:
    """Exercise 3: ``facing_away(n, d, w, rays)``: normals and directions (N, 3), weights (N,), how many rays see something."""
    g = torch.Generator().manual_seed(113)
    times = torch.randint(1, 9, (40,), generator=g)  # so that the library's choice of samples takes each so often
    places, directions = torch.randn(40, 3, generator=g), F.normalize(torch.randn(16, 3, generator=g), dim=-1)
    ray, w, rays = torch.arange(40) * 16 // 40, times / 16, 16

    class Ball:
        def normals(self, points: Tensor) -> Tensor:
            return F.normalize(points, dim=-1)

    n, d = Ball().normals(places), directions[ray]
    seen = Render(torch.zeros(1, 4, 4, 3), torch.ones(1, 4, 4, 1), samples=Samples(places, w, ray, directions))
    right = Orientation(1.0, points=int(times.sum()))(Ball(), seen)
    facing = (n * d).sum(-1)
    away = facing.clamp(min=0)
    return judge(answer(n, d, w, rays), right, {
        "wrong side: n . d < 0 is what faces the camera, and may stay.": (w * (-facing).clamp(min=0).square()).sum() / rays,
        "this counts both sides: what faces the camera costs nothing, max(n . d, 0).": (w * facing.square()).sum() / rays,
        "the square is missing: Eq. 11 has max(n . d, 0)².": (w * away).sum() / rays,
        "the weights are missing: what nobody sees costs nothing.": away.square().sum() / rays,
        "the weights are missing, and this is a mean over the samples: sum T alpha times it, over the rays.":
            away.square().mean(),
        "this is the mean over the samples: divide by the rays, or empty samples would make it small.":
            (w * away.square()).mean(),
        "this is the sum over all rays: divide by how many there are.": (w * away.square()).sum(),
        "this divides by the sum of the weights: divide by the rays.": (w * away.square()).sum() / w.sum(),
        "the weights are squared too: square max(n . d, 0) first.": (w * away).square().sum() / rays,
        "wrong sign: this is a cost, so that descending it turns the normals round.": -right,
    }, "facing = (n * d).sum(-1); what is below 0 costs nothing; square, times w, sum, over rays.")
