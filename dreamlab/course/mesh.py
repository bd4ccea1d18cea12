"""Self-checks of notebook 12: where a surface crosses an edge, a pixel's weights in a triangle, what a silhouette covers."""
from collections.abc import Callable

import torch
from torch import Tensor

from dreamlab.cameras import orbit
from dreamlab.course import judge
from dreamlab.mesh import lattice, marching_tetrahedra
from dreamlab.render.mesh import antialias, crossings, rasterize, weigh


def check_crossing(answer: Callable) -> str:
    """Exercise 1: ``crossing(p, q, a, b)``: corners (N, 3), values there (N,) of opposite signs; the places (N, 3)."""
    g = torch.Generator().manual_seed(121)
    places = lattice(2, 0.5) + 0.4 * (torch.rand(2, 2, 2, 3, generator=g) - 0.5)
    values = 0.2 + torch.rand(2, 2, 2, generator=g)
    values[0, 0, 0] *= -0.6  # the only corner inside: seven edges leave it, and then the other way round
    right = torch.cat([marching_tetrahedra(sign * values, places)[0] for sign in (1, -1)])
    p, q = (x.repeat(2, 1) for x in (places.view(-1, 3)[:1].expand(7, 3), places.view(-1, 3)[1:]))
    a, b = (torch.cat([x, -x]) for x in (values.flatten()[:1].expand(7), values.flatten()[1:]))
    share = (a / (a - b))[:, None]

    def at(share: Tensor) -> Tensor:
        return p + share * (q - p)

    return judge(answer(p, q, a, b), right, {
        "this is the middle of the edge: use the values, the surface is nearer to the corner whose value is nearer to 0.":
            at(torch.tensor(0.5)),
        "the shares are swapped: where a is nearly 0 the surface is nearly at p.": at(1 - share),
        "wrong sign: this lies outside of the edge. From p it goes towards q, by a positive share.": at(-share),
        "a + b is no distance: the signs are opposite, so from one value to the other it is a - b.":
            at((a / (a + b))[:, None]),
        "this divides by b: the share is of the whole way from a to b.": at((-a / b)[:, None]),
        "this divides by b, and the sign is wrong too: the share is of the whole way from a to b.": at((a / b)[:, None]),
        "the way starts at q here: the share a / (a - b) is counted from p.": q + share * (q - p),
        "p is missing: this is how far it is from there.": share * (q - p),
        "the way is missing: the share is of q - p.": p + share,
    }, "the field is linear along the edge: a + s (b - a) = 0. Solve it for s, then go s of the way from p to q.")


def check_barycentrics(answer: Callable) -> str:
    """Exercise 2: ``barycentrics(corners, z, points)``: a triangle on the screen (3, 2), its corners' depths (3,), points (N,
    2) in it; the weights (N, 3) of its corners, perspective-correct."""
    vertices = torch.tensor([[1.06, 0.20, -0.07], [-0.78, 0.43, -0.67], [-0.20, -0.02, 0.79]])
    seen = rasterize(vertices, torch.tensor([[0, 1, 2]]), orbit(35.0, 20.0, 2.4, 45.0), 24)
    hit = seen.face[0] >= 0
    right, (corners, z) = seen.bary[0][hit], seen.screen[0].split([2, 1], 1)
    z, points = z[:, 0], hit.nonzero().flip(1) + 0.5

    def areas(points: Tensor) -> Tensor:
        return weigh(corners.expand(len(points), 3, 2), points)[0]

    def whole(w: Tensor) -> Tensor:
        return w / w.sum(1, keepdim=True)

    w = areas(points)
    return judge(answer(corners, z, points), right, {
        "not perspective-correct: these are shares on the screen. Divide each by its corner's z first.": whole(w),
        "this multiplies by z: a corner that is far away counts less in the picture, so divide.": whole(w * z),
        "this divides by z and then makes nothing of it: the weights must sum to 1.": w / z,
        "this divides by z after the weights summed to 1: make them sum to 1 at the end.": whole(w) / z,
        "this divides by z squared: once is enough.": whole(w / z**2),
        "these are areas: divide by z, and make them sum to 1.": w,
        "each area belongs to another corner: the one that is not on its edge.": whole(w.roll(1, 1) / z),
        "each area belongs to another corner: the one that is not on its edge. ": whole(w.roll(-1, 1) / z),
        "each area belongs to another corner, and they are not perspective-correct: divide by z.": whole(w).roll(1, 1),
        "each area belongs to another corner, and they are not perspective-correct: divide by z. ": whole(w).roll(-1, 1),
        "half a pixel off: the points are the centres already.": whole(areas(points - 0.5) / z),
        "half a pixel off, the other way: the points are the centres already.": whole(areas(points + 0.5) / z),
        "wrong sign: the sum of the areas has a sign too, so divide by it as it is.": -right,
    }, "three areas by cross products, each divided by the z of its corner, then all by their sum.").rstrip()


def check_covered(answer: Callable) -> str:
    """Exercise 3: ``covered(d)``, (N,) in [0, 1]: how much of the inner and of the outer pixel the object covers, (N, 2)."""
    side, ways, rights = 16, [], []
    lens = orbit(0.0, 0.0, 24.0, 4.0)
    pixel = 24.0 / lens.Ks(side)[0, 0, 0]
    for at in torch.linspace(-2.9, 1.6, 12):  # a wall that ends there
        corners = torch.tensor([[-40.0, -40.0], [1.0, -40.0], [1.0, 40.0], [-40.0, 40.0]])
        corners[1:3, 0] = at
        seen = rasterize(torch.nn.functional.pad(corners * pixel, (1, 0)), torch.tensor([[0, 1, 2], [0, 2, 3]]), lens, side)
        inner, outer, d, share = crossings(seen)
        k = (inner // side == side // 2).nonzero()[0]  # in the middle row
        drawn = antialias((seen.face >= 0).float()[..., None], seen).flatten()
        ways.append(d[k])
        rights.append(torch.stack([drawn[inner[k]], drawn[outer[k]]], 1))
    d, right = torch.cat(ways), torch.cat(rights)
    zero, one = torch.zeros_like(d), torch.ones_like(d)
    inner, outer = right.unbind(1)

    def both(inner: Tensor, outer: Tensor) -> Tensor:
        return torch.stack([inner, outer], 1)

    missing = "1/2 is missing: at d = 0 the silhouette passes through the inner pixel's centre, and half of that is covered."
    return judge(answer(d), right, {
        missing: both(d, zero),
        missing + " ": both(d, outer),
        missing + "  ": both(d, 1 - d),
        "the other half is missing: from d = 1/2 on the silhouette is in the outer pixel, which is covered by d - 1/2.":
            both(inner, zero),
        "the outer pixel's 1/2 is missing: its side begins half way between the centres.": both(inner, d),
        "the outer pixel's 1/2 is missing: its side begins half way between the centres. ":
            both(inner, torch.where(d > 0.5, d, zero)),
        "more than a whole pixel: what is over 1 lies in the outer one.": both(0.5 + d, zero),
        "more than a whole pixel: the inner share ends at 1.": both(0.5 + d, outer),
        "less than nothing: the outer share begins at 0.": both(inner, d - 0.5),
        "more than a whole pixel, and less than nothing: the shares end at 0 and 1.": both(0.5 + d, d - 0.5),
        "this is the hard picture: no share moves with d.": both(one, zero),
        "this is the hard picture of the nearer centre: no share moves with d.": both(one, (d > 0.5).float()),
        "d is counted from the other end: it is 0 at the inner pixel's centre.": both((1.5 - d).clamp(max=1), outer.flip(0)),
        "d is counted from the other end: it is 0 at the inner pixel's centre. ":
            both((1.5 - d).clamp(max=1), (0.5 - d).clamp(min=0)),
        "inner and outer are swapped.": both(outer, inner),
        "this is what the background covers: take it from 1.": 1 - right,
    }, "the object ends at 1/2 + d from the inner pixel's far side, and a pixel is 1 wide: what lies in the first, what in the "
       "second?").rstrip()
