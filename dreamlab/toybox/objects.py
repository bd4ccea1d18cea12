"""The toybox: eight kinds of object in eight colours, as signed distance and colour. Every picture comes from here.

An object faces +x, its left side is +y, up is +z, and it fits in a ball of radius 0.85. A kind is a list of parts, each a
distance function and a :class:`Paint`; the object's distance is the least of its parts' and its colour that of the
nearest part. Distances are exact for balls, boxes, cylinders, capsules and tori, and a first-order bound for ellipsoids
(Quilez, "Distance functions").

Colour is ``paint.rgb + paint.main * main``, linear in the object's main colour, so one rendering serves every colour.
"""
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Points = Float[Tensor, "n 3"]

COLOURS = {
    "red": (0.85, 0.10, 0.10), "orange": (0.98, 0.52, 0.05), "yellow": (0.96, 0.88, 0.12), "green": (0.13, 0.62, 0.20),
    "cyan": (0.15, 0.80, 0.85), "blue": (0.12, 0.25, 0.88), "purple": (0.50, 0.14, 0.68), "pink": (1.00, 0.56, 0.78),
}


@dataclass(frozen=True)
class Paint:
    """Colour of a part: ``rgb + main * main colour``, each channel in [0, 1]."""

    rgb: tuple[float, float, float] = (0.0, 0.0, 0.0)
    main: float = 0.0


MAIN, SHADE = Paint(main=1.0), Paint(main=0.55)
BLACK, GREY, WHITE = Paint((0.05, 0.05, 0.06)), Paint((0.42, 0.43, 0.46)), Paint((0.95, 0.95, 0.95))
CREAM, BEAK = Paint((0.96, 0.89, 0.74)), Paint((1.0, 0.55, 0.08))
WOOD, ROOF = Paint((0.40, 0.24, 0.12)), Paint((0.33, 0.18, 0.14))
GLASS, LAMP, TAIL_LAMP = Paint((0.62, 0.82, 0.95)), Paint((1.0, 0.96, 0.70)), Paint((0.75, 0.04, 0.04))

Part = tuple[Float[Tensor, "n"], Paint]


def _v(p, x):
    return torch.tensor(x, dtype=p.dtype, device=p.device)


def ball(p, centre, r):
    return (p - _v(p, centre)).norm(dim=-1) - r


def ellipsoid(p, centre, radii):
    q, r = p - _v(p, centre), _v(p, radii)
    k0, k1 = (q / r).norm(dim=-1), (q / r**2).norm(dim=-1)
    return k0 * (k0 - 1) / k1.clamp_min(1e-6)


def box(p, centre, half, round=0.03):
    q = (p - _v(p, centre)).abs() - (_v(p, half) - round)
    return q.clamp_min(0).norm(dim=-1) + q.amax(-1).clamp_max(0) - round


def capsule(p, a, b, r):
    a, b = _v(p, a), _v(p, b)
    h = ((p - a) @ (b - a) / (b - a).dot(b - a)).clamp(0, 1)
    return (p - a - h[:, None] * (b - a)).norm(dim=-1) - r


def cylinder(p, centre, r, half, axis=2, round=0.02):
    q = p - _v(p, centre)
    across = q[:, [i for i in range(3) if i != axis]].norm(dim=-1)
    d = torch.stack([across - (r - round), q[:, axis].abs() - (half - round)], -1)
    return d.clamp_min(0).norm(dim=-1) + d.amax(-1).clamp_max(0) - round


def torus(p, centre, major, minor, axis=0):
    q = p - _v(p, centre)
    across = q[:, [i for i in range(3) if i != axis]].norm(dim=-1) - major
    return (across**2 + q[:, axis] ** 2).sqrt() - minor


def pair(shape, p, centre, *rest):
    """The same part on both sides: ``centre`` has y > 0 and |y| of the query is used."""
    return shape(torch.cat([p[:, :1], p[:, 1:2].abs(), p[:, 2:]], -1), centre, *rest)


def mug(p: Points) -> list[Part]:
    shell = torch.maximum(cylinder(p, (0, 0, 0), 0.50, 0.52), -cylinder(p, (0, 0, 0.3), 0.40, 0.62))
    return [(shell, MAIN), (torus(p, (0, -0.52, 0), 0.26, 0.085), MAIN), (cylinder(p, (0, 0, -0.05), 0.41, 0.40), WOOD),
            (pair(ellipsoid, p, (0.44, 0.20, 0.12), (0.10, 0.09, 0.12)), BLACK),
            (pair(ball, p, (0.36, 0.35, -0.08), 0.075), Paint((0.98, 0.70, 0.70))),
            (capsule(p, (0.49, -0.10, -0.17), (0.49, 0.10, -0.17), 0.05), BLACK)]


def duck(p: Points) -> list[Part]:
    return [(ellipsoid(p, (-0.08, 0, -0.26), (0.52, 0.38, 0.33)), MAIN), (ball(p, (0.24, 0, 0.29), 0.31), MAIN),
            (capsule(p, (-0.42, 0, -0.15), (-0.66, 0, 0.10), 0.10), MAIN),
            (pair(ellipsoid, p, (-0.14, 0.36, -0.20), (0.30, 0.08, 0.18)), SHADE),
            (ellipsoid(p, (0.58, 0, 0.22), (0.17, 0.17, 0.075)), BEAK),
            (pair(ball, p, (0.46, 0.17, 0.41), 0.085), BLACK)]


def snowman(p: Points) -> list[Part]:
    return [(ball(p, (0, 0, -0.40), 0.38), MAIN), (ball(p, (0, 0, 0.06), 0.30), MAIN), (ball(p, (0, 0, 0.43), 0.24), MAIN),
            (cylinder(p, (0, 0, 0.62), 0.29, 0.035), BLACK), (cylinder(p, (0, 0, 0.70), 0.18, 0.12), BLACK),
            (pair(capsule, p, (0, 0.26, 0.12), (0, 0.58, 0.30), 0.045), WOOD),
            (capsule(p, (0.20, 0, 0.41), (0.46, 0, 0.38), 0.065), BEAK),
            (pair(ball, p, (0.19, 0.12, 0.51), 0.07), BLACK),
            (ball(p, (0.28, 0, 0.16), 0.065), BLACK), (ball(p, (0.29, 0, -0.02), 0.065), BLACK)]


def car(p: Points) -> list[Part]:
    wheels = torch.minimum(pair(cylinder, p, (0.38, 0.31, -0.32), 0.18, 0.075, 1),
                           pair(cylinder, p, (-0.40, 0.31, -0.32), 0.18, 0.075, 1))
    return [(box(p, (0, 0, -0.16), (0.68, 0.34, 0.17), 0.08), MAIN), (box(p, (-0.14, 0, 0.13), (0.34, 0.28, 0.20), 0.08), MAIN),
            (wheels, BLACK), (box(p, (0.17, 0, 0.13), (0.06, 0.23, 0.12), 0.02), GLASS),
            (pair(box, p, (-0.14, 0.26, 0.15), (0.22, 0.04, 0.10), 0.02), GLASS),
            (pair(ball, p, (0.64, 0.22, -0.10), 0.10), LAMP), (box(p, (0.66, 0, -0.18), (0.05, 0.11, 0.06), 0.02), BLACK),
            (pair(box, p, (-0.66, 0.23, -0.10), (0.05, 0.08, 0.05), 0.02), TAIL_LAMP)]


def robot(p: Points) -> list[Part]:
    return [(box(p, (0, 0, -0.18), (0.24, 0.31, 0.28), 0.05), MAIN), (box(p, (0, 0, 0.33), (0.25, 0.30, 0.20), 0.05), MAIN),
            (capsule(p, (0, 0, 0.5), (0, 0, 0.66), 0.035), GREY), (ball(p, (0, 0, 0.68), 0.075), TAIL_LAMP),
            (pair(capsule, p, (0, 0.40, 0.0), (0.06, 0.44, -0.34), 0.075), GREY),
            (pair(capsule, p, (0, 0.15, -0.45), (0, 0.15, -0.62), 0.10), GREY),
            (pair(ball, p, (0.24, 0.13, 0.38), 0.10), WHITE), (pair(ball, p, (0.32, 0.13, 0.38), 0.055), BLACK),
            (box(p, (0.25, 0, 0.21), (0.03, 0.15, 0.035), 0.01), BLACK),
            (box(p, (0.24, 0, -0.14), (0.03, 0.14, 0.10), 0.01), LAMP),
            (box(p, (-0.28, 0, -0.14), (0.10, 0.20, 0.20), 0.03), GREY)]


def bear(p: Points) -> list[Part]:
    return [(ellipsoid(p, (0, 0, -0.32), (0.33, 0.37, 0.36)), MAIN), (ball(p, (0.03, 0, 0.25), 0.35), MAIN),
            (pair(ball, p, (-0.02, 0.27, 0.54), 0.14), MAIN),
            (pair(capsule, p, (0.05, 0.34, -0.12), (0.26, 0.44, -0.26), 0.10), MAIN),
            (pair(capsule, p, (0.15, 0.22, -0.60), (0.36, 0.25, -0.58), 0.12), MAIN),
            (ellipsoid(p, (0.19, 0, -0.30), (0.17, 0.23, 0.24)), CREAM),
            (ellipsoid(p, (0.33, 0, 0.16), (0.14, 0.18, 0.13)), CREAM),
            (ball(p, (0.46, 0, 0.23), 0.075), BLACK), (pair(ball, p, (0.31, 0.15, 0.37), 0.075), BLACK),
            (ball(p, (-0.36, 0, -0.45), 0.12), CREAM)]


def house(p: Points) -> list[Part]:
    slope = 0.70 * p[:, 1].abs() + 0.714 * (p[:, 2] - 0.10) - 0.70 * 0.56
    roof = torch.stack([slope, p[:, 0].abs() - 0.50, 0.08 - p[:, 2]], -1).amax(-1)
    return [(box(p, (0, 0, -0.24), (0.42, 0.44, 0.36), 0.02), MAIN), (roof, ROOF),
            (box(p, (0.42, 0, -0.38), (0.035, 0.12, 0.21), 0.01), WOOD), (ball(p, (0.46, 0.06, -0.38), 0.035), LAMP),
            (pair(box, p, (0.42, 0.28, -0.12), (0.035, 0.095, 0.11), 0.01), LAMP),
            (ball(p, (0.46, 0, 0.27), 0.10), GLASS), (box(p, (-0.25, 0.22, 0.46), (0.085, 0.085, 0.20), 0.01), GREY)]


def owl(p: Points) -> list[Part]:
    return [(ellipsoid(p, (0, 0, -0.06), (0.37, 0.42, 0.57)), MAIN),
            (pair(capsule, p, (0, 0.22, 0.40), (-0.02, 0.31, 0.62), 0.075), MAIN),
            (pair(ellipsoid, p, (0.27, 0.17, 0.20), (0.11, 0.155, 0.155)), WHITE),
            (pair(ball, p, (0.36, 0.16, 0.20), 0.075), BLACK),
            (ellipsoid(p, (0.39, 0, 0.07), (0.11, 0.07, 0.10)), BEAK),
            (ellipsoid(p, (0.20, 0, -0.28), (0.21, 0.26, 0.25)), CREAM),
            (pair(ellipsoid, p, (-0.05, 0.39, -0.12), (0.24, 0.10, 0.34)), SHADE),
            (pair(ball, p, (0.17, 0.15, -0.61), 0.10), BEAK), (ellipsoid(p, (-0.33, 0, -0.42), (0.16, 0.17, 0.22)), SHADE)]


KINDS: dict[str, Callable[[Points], list[Part]]] = {f.__name__: f for f in (mug, duck, snowman, car, robot, bear, house, owl)}
MIRROR_SYMMETRIC = frozenset(KINDS) - {"mug", "house"}  # the mug's handle and the house's chimney stand on one side

# Kind and colour never shown together in any training: every kind once, every colour once.
HELD_OUT = frozenset((kind, list(COLOURS)[(3 * i + 1) % 8]) for i, kind in enumerate(KINDS))


class Body:
    """A solid by its parts: distance, colour and normal of any points. ``scale`` and ``warp`` say how a tracer is to step."""

    scale: float = 1.0
    warp: Callable[[Points], Points] | None = None

    def parts(self, p: Points) -> list[Part]:
        raise NotImplementedError

    def sdf(self, p: Points) -> Float[Tensor, "n"]:
        """Signed distance to the surface, negative inside, in world units."""
        return self.scale * torch.stack([d for d, _ in self.parts(p)]).amin(0)

    def paint(self, p: Points) -> tuple[Points, Float[Tensor, "n"]]:
        """Fixed colour (n, 3) and weight of the main colour (n,) of the part nearest to each point."""
        parts = self.parts(p)
        nearest = torch.stack([d for d, _ in parts]).argmin(0)
        table = _v(p, [(*paint.rgb, paint.main) for _, paint in parts])[nearest]
        return table[:, :3], table[:, 3]

    def normal(self, p: Points) -> Points:
        """Outward unit normal: the gradient of the distance."""
        with torch.enable_grad():
            p = p.detach().requires_grad_()
            (g,) = torch.autograd.grad(self.sdf(p).sum(), p)
        return torch.nn.functional.normalize(g, dim=-1)

    def surface_points(self, n: int, generator: torch.Generator) -> Points:
        """n points on the surface, near-uniform: random points walked to the surface along the gradient, then thinned."""
        p = (torch.rand(8 * n, 3, generator=generator) * 2 - 1) * 0.9 * self.scale
        p = p[self.sdf(p).abs() < 0.12]
        for _ in range(6):
            p = p - self.sdf(p)[:, None] * self.normal(p)
        p = p[self.sdf(p).abs() < 2e-3]
        return p[torch.randperm(len(p), generator=generator)[:n]]


@dataclass(frozen=True)
class Toy(Body):
    """One object. ``warp`` maps a query point to the point of the plain object it copies (see :func:`fronts`)."""

    kind: str
    warp: Callable[[Points], Points] | None = None
    scale: float = 1.0

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"no kind {self.kind!r} in the toybox; choose one of: {', '.join(KINDS)}")

    def parts(self, p: Points) -> list[Part]:
        p = p / self.scale
        return KINDS[self.kind](self.warp(p) if self.warp else p)


def fronts(n: int) -> Callable[[Points], Points]:
    """Warp that repeats the front sector n times around the vertical axis: a Janus object with n faces."""
    def warp(p):
        az = torch.atan2(p[:, 1], p[:, 0])
        folded = torch.remainder(az + math.pi / n, 2 * math.pi / n) - math.pi / n
        r = p[:, :2].norm(dim=-1)
        return torch.stack([r * folded.cos(), r * folded.sin(), p[:, 2]], -1)
    return warp


def lathe(p: Points) -> Points:
    """Warp that turns the object's back profile around the vertical axis: the same from everywhere, without a face."""
    return torch.stack([-p[:, :2].norm(dim=-1), torch.zeros_like(p[:, 0]), p[:, 2]], -1)


def colour_rgb(colour: str) -> tuple[float, float, float]:
    if colour not in COLOURS:
        raise ValueError(f"no colour {colour!r} in the toybox; choose one of: {', '.join(COLOURS)}")
    return COLOURS[colour]
