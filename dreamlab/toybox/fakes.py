"""Objects that are wrong on purpose: what text-to-3D makes by mistake, and what could fool an instrument.

Several fronts and none stand in :mod:`dreamlab.toybox.objects` (``fronts``, ``lathe``); here are fronts and backs at any
azimuths, bodies with random spots that no face is made of, and flat cards with a picture. The judge is trained on some of them
(:mod:`dreamlab.toybox.training.judge`) and the metrics are calibrated on others (:mod:`dreamlab.metrics.calibrate`).
"""
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dreamlab.cameras import Cameras
from dreamlab.toybox.objects import (
    BLACK,
    MAIN,
    WHITE,
    Body,
    Paint,
    Part,
    Points,
    ball,
    box,
    capsule,
    ellipsoid,
    torus,
)


def fronts_at(azimuths: list[float], turn: float = 0.0) -> Callable[[Points], Points]:
    """Warp that shows every azimuth (radians) the sector around the plain object's azimuth ``turn``.

    With turn 0 an object with a front at each azimuth, with turn pi one with backs only.
    """
    def warp(p):
        az = torch.atan2(p[:, 1], p[:, 0])
        away = (az[:, None] - torch.tensor(azimuths) + math.pi).remainder(2 * math.pi) - math.pi
        folded = away.gather(1, away.abs().argmin(1, keepdim=True))[:, 0] + turn
        r = p[:, :2].norm(dim=-1)
        return torch.stack([r * folded.cos(), r * folded.sin(), p[:, 2]], -1)
    return warp


@dataclass(frozen=True)
class Egg(Body):
    """An upright ellipsoid in the main colour, with nothing on it."""

    radii: tuple[float, float, float] = (0.45, 0.45, 0.6)

    def parts(self, p: Points) -> list[Part]:
        return [(ellipsoid(p, (0, 0, 0), self.radii), MAIN)]


@dataclass(frozen=True, eq=False)
class Spotted(Body):
    """A body with round spots painted on its surface, each within ``radii`` (n,) of one of ``centres`` (n, 3).

    ``bare``: the body itself is in the main colour all over, whatever it wears otherwise.
    """

    body: Body
    centres: Float[Tensor, "n 3"]
    radii: Float[Tensor, "n"]
    colours: Float[Tensor, "n 3"]
    bare: bool = False
    warp: Callable[[Points], Points] | None = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "warp", self.body.warp)

    def parts(self, p: Points) -> list[Part]:
        return self.body.parts(p)

    def paint(self, p: Points) -> tuple[Points, Float[Tensor, "n"]]:
        fixed, main = self.body.paint(p)
        if self.bare:
            fixed, main = torch.zeros_like(fixed), torch.ones_like(main)
        if len(self.centres):
            nearest = (torch.cdist(p, self.centres) / self.radii).min(1)
            on = nearest.values < 1
            fixed, main = torch.where(on[:, None], self.colours[nearest.indices], fixed), torch.where(on, 0.0, main)
        return fixed, main


def spotted(body: Body, n: int, generator: torch.Generator, bare: bool = True, size: tuple[float, float] = (0.04, 0.17),
            behind_deg: float = 0.0) -> Spotted:
    """n spots at random places of a body's surface: nearly half of them black, a third white, the rest of any colour.

    ``size``: least and greatest radius in world units. ``behind_deg``: none is nearer than this to the azimuth of the front.
    """
    p = body.surface_points(2000, generator)
    p = p[torch.atan2(p[:, 1], p[:, 0]).abs() >= math.radians(behind_deg)][:n]
    u = torch.rand(n, 5, generator=generator)[: len(p)]
    black, white = torch.tensor(BLACK.rgb), torch.tensor(WHITE.rgb)
    colours = torch.where(u[:, :1] < 0.45, black, torch.where(u[:, :1] < 0.8, white, u[:, 2:]))
    return Spotted(body, p, size[0] + (size[1] - size[0]) * u[:, 1], colours, bare)


@torch.no_grad()
def card(front: Float[Tensor, "c h w"], back: Float[Tensor, "c h w"], eye: Cameras, cameras: Cameras,
         resolution: int) -> Float[Tensor, "b c r r"]:
    """What cameras see of a flat upright card on the vertical axis whose +x side shows ``front`` to the one camera ``eye``.

    Its other side shows ``back``, the right way round, to the camera opposite. Nothing (0) is seen beside the card.
    """
    origins, directions = cameras.rays(resolution)
    ahead = directions[..., 0].abs().clamp_min(1e-6) * directions[..., 0].sign()
    far = -origins[:, None, None, 0] / ahead
    place = origins[:, None, None] + far[..., None] * directions  # x = 0
    side = torch.where(origins[:, 0] >= 0, 1.0, -1.0)
    place = torch.stack([torch.zeros_like(far), place[..., 1] * side[:, None, None], place[..., 2]], -1)
    seen = place @ eye.viewmats[0, :3, :3].T + eye.viewmats[0, :3, 3]
    xy = seen[..., :2] / seen[..., 2:] / (eye.fov_deg[0].deg2rad() / 2).tan()
    xy = torch.where((far > 0)[..., None], xy, 9.0)
    shown = torch.where((side > 0)[:, None, None, None], front, back)
    return F.grid_sample(shown, xy, mode="bilinear", padding_mode="zeros", align_corners=False)


@dataclass(frozen=True)
class Jumble(Body):
    """Three to eight balls, boxes, capsules, ellipsoids and rings at random places, each in a colour of its own."""

    seed: int

    def parts(self, p: Points) -> list[Part]:
        u = torch.rand(9, 12, generator=torch.Generator().manual_seed(self.seed)).tolist()
        found = []
        for place in u[1 : 4 + int(u[0][0] * 6)]:
            x, y, z, a, b, c, shape, axis, *rgb, main = place
            at, size = (0.9 * x - 0.45, 0.9 * y - 0.45, 0.9 * z - 0.45), (0.1 + 0.28 * a, 0.1 + 0.28 * b, 0.1 + 0.28 * c)
            far = tuple(q + 0.5 * (s - 0.24) / 0.14 * 0.5 for q, s in zip(at, size, strict=True))
            distance = [lambda: ball(p, at, size[0]), lambda: box(p, at, size, 0.03), lambda: ellipsoid(p, at, size),  # noqa: B023
                        lambda: capsule(p, at, far, 0.05 + 0.3 * size[0]),  # noqa: B023
                        lambda: torus(p, at, 0.16 + 0.4 * size[0], 0.05 + 0.15 * size[1], int(axis * 3))][int(shape * 5)]()  # noqa: B023
            found.append((distance, Paint(tuple(rgb)) if main < 0.7 else MAIN))
        return found


@dataclass(frozen=True)
class Moved(Body):
    """A body that is stretched along its axes, turned about the vertical and shifted; distances are to first order."""

    body: Body
    stretch: tuple[float, float, float] = (1.0, 1.0, 1.0)
    turn_deg: float = 0.0
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    warp: Callable[[Points], Points] | None = field(init=False)

    def __post_init__(self):
        c, s = math.cos(math.radians(self.turn_deg)), math.sin(math.radians(self.turn_deg))

        def warp(p: Points) -> Points:
            p = p - torch.tensor(self.shift).to(p)
            p = p @ torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]).to(p)  # rows: turned back by turn_deg
            return p / torch.tensor(self.stretch).to(p)

        object.__setattr__(self, "warp", warp)

    def parts(self, p: Points) -> list[Part]:
        return [(distance * min(self.stretch), paint) for distance, paint in self.body.parts(self.warp(p))]
