"""A surface laid flat for a texture: cut into charts by xatlas, and painted by asking for the colour at every texel's place."""
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dreamlab.checks import finite, shown
from dreamlab.mesh import Mesh

Paint = Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n 3"]]  # places of the surface -> colours in [0, 1]
GUTTER = 4  # texels that the colours of a chart go on beyond its border
CELL = 8  # texels a side for a triangle by itself


@dataclass(frozen=True)
class Atlas:
    """``faces`` are the mesh's, in the same order, as corners of the atlas: ``origin`` says which vertex each of these is,
    ``uv`` where it lies in ``image``, (0, 0) being the upper left and (1, 1) the lower right."""

    origin: Int[Tensor, "a"]
    faces: Int[Tensor, "f 3"]
    uv: Float[Tensor, "a 2"]
    image: Float[Tensor, "t t 3"]


def textured(mesh: Mesh, paint: Paint, texels: int) -> Atlas | None:
    """An atlas of ``texels`` a side for a mesh on the CPU; None without xatlas, or without any area.

    Triangles next to no area are in no chart, and two parts of one chart may lie within a texel of each other, so that some
    show another's colour. These are laid apart, each in a square of ``CELL`` texels at the border of the picture. Where there
    is no more room for them, those without a chart have one colour, that of a corner of a neighbour.
    """
    if not find_spec("xatlas"):
        return None
    import xatlas

    charts, pack = xatlas.Atlas(), xatlas.PackOptions()
    charts.add_mesh(mesh.vertices.numpy(), mesh.faces.numpy().astype(np.uint32))
    pack.resolution, pack.padding = texels, GUTTER
    charts.generate(pack_options=pack)
    origin, faces, uv = (torch.from_numpy(x.astype(kind)) for x, kind in zip(charts[0], (int, int, np.float32), strict=True))
    laid = (uv[faces] != 0).flatten(1).any(1)
    if not laid.any():
        return None
    across, rows = texels // CELL, max(1, texels // 128)
    uv[:, 1] *= 1 - rows * CELL / texels  # room for the squares
    low, size = mesh.vertices.amin(0), (mesh.vertices.amax(0) - mesh.vertices.amin(0)).max()
    places = bake(mesh.vertices[origin], faces[laid], uv, lambda p: (p - low) / size, texels)  # where each texel lies
    mixed = torch.cat([torch.eye(3), (1 - torch.eye(3)) / 2, torch.full((1, 3), 1 / 3)])  # corners, edges and middle
    points, at = mixed @ mesh.vertices[mesh.faces], mixed @ uv[faces] * texels - 0.5
    away = torch.zeros(len(faces))  # how far from a point the texels lie that a bilinear filter reads there
    for read in torch.cartesian_prod(torch.tensor([0, 1]), torch.tensor([0, 1])):
        column, line = (at.floor().long() + read).clamp(0, texels - 1).unbind(-1)
        away = torch.maximum(away, (places[line, column] * size + low - points).norm(dim=-1).amax(1))
    one = ((points[:, 0] - points[:, 1]).norm(dim=-1) / (at[:, 0] - at[:, 1]).norm(dim=-1).clamp(min=1e-9))[laid].median()
    away = away.where(laid, size)  # ``one``: the length of a texel
    apart = away.argsort(descending=True)[:across * rows]
    apart = apart[away[apart] > 4 * one]
    k = torch.arange(len(apart))
    shift = torch.stack([k % across * CELL, texels - CELL * (1 + k // across)], -1)
    corners = torch.tensor([[1.5, 1.5], [CELL - 2.5, 1.5], [1.5, CELL - 2.5]])
    faces[apart] = len(origin) + torch.arange(3 * len(apart)).view(-1, 3)
    origin = torch.cat([origin, mesh.faces[apart].flatten()])
    uv = torch.cat([uv, ((corners + shift[:, None]) / texels).flatten(0, 1)])
    laid[apart] = True
    image = bake(mesh.vertices[origin], faces[laid], uv, paint, texels)
    corner = torch.full((len(mesh.vertices),), -1).index_put((origin[faces[laid]],), faces[laid])
    known, flat = (corner >= 0).nonzero()[:, 0], mesh.faces[~laid]
    lost = flat.unique()
    lost = lost[corner[lost] < 0]
    for some in lost.split(256):
        corner[some] = corner[known[torch.cdist(mesh.vertices[some], mesh.vertices[known]).argmin(1)]]
    faces[~laid] = len(origin) + torch.arange(flat.numel()).view(-1, 3)  # corners of their own, in one place of the picture
    origin, uv = torch.cat([origin, flat.flatten()]), torch.cat([uv, uv[corner[flat[:, 0]]].repeat_interleave(3, 0)])
    used, faces = faces.unique(return_inverse=True)
    return Atlas(origin[used], faces, uv[used], image)


def bake(vertices: Float[Tensor, "a 3"], faces: Int[Tensor, "f 3"], uv: Float[Tensor, "a 2"], paint: Paint, texels: int
         ) -> Float[Tensor, "t t 3"]:
    """What ``paint`` says of each texel's place on the surface; row 0 is at v = 0.

    A texel is painted if its centre lies in a triangle, or is among those that a bilinear filter of some point in it reads:
    then its place is the triangle's nearest. So no seam is seen. ValueError where paint gives another shape, or NaN.
    """
    corners = uv[faces] * texels - 0.5  # (f, 3, 2): column and row, whole numbers at the centres of texels
    low, high = (x.clamp(0, texels - 1).long() for x in (corners.amin(1).floor(), corners.amax(1).ceil()))
    wide = high - low + 1  # of the box around each triangle
    count = wide.prod(1)
    where, least = torch.zeros(texels**2, 3), torch.full((texels**2,), 2**0.5)  # from a texel to the nearest triangle
    for some in torch.arange(len(faces)).split(max(1, 2**20 * len(faces) // int(count.sum()))):  # about a million texels each
        face = some.repeat_interleave(count[some])
        k = torch.arange(len(face)) - (count[some].cumsum(0) - count[some]).repeat_interleave(count[some])
        at = low[face] + torch.stack([k % wide[face, 0], k // wide[face, 0]], -1)
        index, place = at @ at.new_tensor([1, texels]), vertices[faces[face]]
        weights, away = nearest(corners[face], at.float())
        place = (weights[..., None] * place).sum(1)
        least.scatter_reduce_(0, index, away, "amin")
        won = away == least[index]
        where[index[won]] = place[won]
    known = least < 2**0.5
    with torch.no_grad():
        rgb = paint(where[known])
    if rgb.shape != (n := int(known.sum()), 3):
        raise ValueError(f"paint must give a colour for each of {n} points, ({n}, 3), got {shown(rgb)}: change it")
    where[known] = finite(rgb.cpu().float(), "the colours that paint gives have", "look at the scene").clamp(0, 1)
    return grow(where.view(texels, texels, 3), known.view(texels, texels))


def nearest(corners: Float[Tensor, "n 3 2"], points: Float[Tensor, "n 2"]) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n"]]:
    """Barycentric weights of the point of each triangle that is nearest to its point of the plane, and how far: 0 inside."""
    to = corners - points[:, None]
    along = corners.roll(-1, 1) - corners
    weights = cross(to, to.roll(-1, 1)).roll(-1, 1)  # of the triangle that each edge makes with the point
    weights = weights / weights.sum(1, keepdim=True)  # NaN without an area, and so not inside
    inside = (weights >= 0).all(1)
    t = (-(to * along).sum(-1) / along.square().sum(-1).clamp_min(1e-12)).clamp(0, 1)  # on each edge
    away, edge = (to + t[..., None] * along).norm(dim=-1).min(1)
    t, row = t.gather(1, edge[:, None])[:, 0], torch.arange(len(points))
    on_edge = torch.zeros_like(weights).index_put((row, edge), 1 - t).index_put((row, (edge + 1) % 3), t)
    return torch.where(inside[:, None], weights, on_edge), torch.where(inside, 0, away)


def cross(a: Float[Tensor, "*n 2"], b: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n"]:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def grow(rgb: Float[Tensor, "t t 3"], known: Bool[Tensor, "t t"]) -> Float[Tensor, "t t 3"]:
    """The known texels, and ``GUTTER`` texels around them, each the mean of its neighbours, for filters that reach farther when
    the picture is made smaller; the rest is the mean of all that is known."""
    mean = rgb[known].mean(0)
    x = torch.cat([rgb * known[..., None], known[..., None].float()], -1).movedim(-1, 0)  # colours, and whether they are known
    for _ in range(GUTTER):
        near = F.avg_pool2d(x, 3, 1, 1)
        x = torch.where((x[3] > 0) | (near[3] == 0), x, near / near[3])
    return torch.where(x[3] > 0, x[:3], mean[:, None, None]).movedim(0, -1)
