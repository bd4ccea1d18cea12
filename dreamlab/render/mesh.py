"""Rasterising triangle meshes, with gradients: which triangle a pixel sees, what its corners' attributes are there, and edges
drawn so that a silhouette has a gradient too.

A pixel's colour depends on where a triangle's corners are through what it sees, smoothly, and through *which* triangle it sees,
by jumps. The jumps have no derivative; but a pixel that is partly covered is a mixture of two colours by area, and that area
moves with the silhouette. :func:`antialias` makes that mixture (the idea of Laine et al., arXiv 2011.03277, section 3.5; the
code is ours and walks along the mesh's silhouette edges, so that triangles may be smaller than a pixel).

On CUDA, where the user has installed nvdiffrast (NVIDIA's licence: not for commercial use), its kernels do the same; the torch
code is the definition.
"""
from dataclasses import dataclass
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from dreamlab.cameras import Cameras
from dreamlab.mesh import Faces, Vertices, edges

NEAR = 1e-2  # world units along the camera's axis: a triangle that comes nearer is not drawn
ASIDE = 1e-4  # pixels by which centres count as farther right and down, so that none lies on an edge


@dataclass
class Fragments:
    """What each pixel sees of a mesh: the index of the ``face``, -1 for none, and its perspective-correct barycentrics
    ``bary``, which carry the gradient to the ``screen``: pixel coordinates x, y and camera z of the vertices."""

    face: Int[Tensor, "b h w"]
    bary: Float[Tensor, "b h w 3"]
    screen: Float[Tensor, "b v 3"]
    faces: Faces
    kernel: tuple | None = None  # what nvdiffrast needs for its edges

    def interpolate(self, values: Float[Tensor, "v c"]) -> Float[Tensor, "b h w c"]:
        """Values of the vertices where each pixel looks, 0 where it sees nothing."""
        hit = self.face >= 0
        corners = values.index_select(0, self.faces[self.face[hit]].flatten()).view(-1, 3, values.shape[1])
        out = values.new_zeros(*hit.shape, values.shape[1])
        return out.masked_scatter(hit[..., None], (self.bary[hit][..., None] * corners).sum(1))


def project(vertices: Vertices, cameras: Cameras, resolution: int) -> Float[Tensor, "b v 3"]:
    """Pixel coordinates x (right), y (down) and depth z along the camera's axis, for each camera; pixel centres at +0.5."""
    views, K = cameras.viewmats.to(vertices), cameras.Ks(resolution).to(vertices)
    seen = vertices @ views[:, :3, :3].mT + views[:, None, :3, 3]
    z = seen[..., 2:]
    return torch.cat([seen[..., :2] / z.clamp(min=NEAR) * K[:, :1, :1] + K[:, None, :2, 2], z], -1)


def weigh(corners: Float[Tensor, "n 3 c"], centres: Float[Tensor, "n 2"]) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n"]]:
    """Twice the area of each of the three triangles that a point makes with two corners, and of the whole, on the screen."""
    x, y = (corners[..., :2] - centres[:, None]).unbind(-1)
    w = x.roll(-1, 1) * y.roll(-2, 1) - x.roll(-2, 1) * y.roll(-1, 1)
    return w, w.sum(1)


def pack(value: Float[Tensor, "n"], index: Int[Tensor, "n"]) -> Int[Tensor, "n"]:
    """One whole number that orders by a value >= 0, rounded to single precision, and then by an index: as bits they do."""
    return (value.float().view(torch.int32).long() << 32) | index


@torch.no_grad()
def visible(screen: Float[Tensor, "b v 3"], faces: Faces, resolution: int) -> Int[Tensor, "b h w"]:
    """The nearest face over each pixel's centre, -1 where there is none; both sides of a face are seen.

    Each face is tried on the pixels of its bounding box; 1 / z is linear on the screen, and the greatest wins.
    """
    b, n = len(screen), len(faces)
    xy, z = screen[:, faces][..., :2], screen[..., 2][:, faces]
    centre = 0.5 + ASIDE
    low = (xy.amin(2) - centre).ceil().clamp(min=0)
    wide = ((xy.amax(2) - centre).floor().clamp(max=resolution - 1) - low + 1).clamp(min=0).long()
    drawn = (wide.prod(-1) * (z.amin(2) > NEAR)).flatten()
    one = drawn.nonzero()[:, 0]
    count, total = drawn[one], int(drawn.sum())
    which = one.repeat_interleave(count, output_size=total)
    k = torch.arange(total, device=one.device) - (count.cumsum(0) - count).repeat_interleave(count, output_size=total)
    across = wide.view(-1, 2)[which, 0]
    x, y = (low.view(-1, 2)[which].long() + torch.stack([k % across, k // across], -1)).unbind(-1)
    corners = xy.reshape(-1, 3, 2)[which]
    w, area = weigh(corners, torch.stack([x, y], -1) + centre)
    w = w * area.sign()[:, None]
    inside = (w.amin(1) >= 0) & (area != 0)
    which, w, area = which[inside], w[inside], area[inside].abs()
    near = (w / z.reshape(-1, 3)[which]).sum(1) / area
    pixel = which // n * resolution**2 + y[inside] * resolution + x[inside]
    best = torch.full((b * resolution**2,), -1, device=screen.device).scatter_reduce(
        0, pixel, pack(near, which % n), "amax")
    return torch.where(best < 0, -1, best & 0xFFFFFFFF).view(b, resolution, resolution)


def rasterize(vertices: Vertices, faces: Faces, cameras: Cameras, resolution: int) -> Fragments:
    """What the cameras see of a mesh. Vertices get gradients through the barycentrics, and :func:`antialias` through edges.

    Faces that come nearer to the camera than ``NEAR`` are left out: nothing is clipped. ValueError for a face of no vertex.
    """
    if len(faces) and not 0 <= int(faces.min()) <= int(faces.max()) < len(vertices):
        raise ValueError(f"faces index the {len(vertices)} vertices, got {int(faces.min())} to {int(faces.max())}: give others")
    cameras = cameras.to(vertices.device)
    screen = project(vertices, cameras, resolution)
    if vertices.is_cuda and find_spec("nvdiffrast"):
        return nvdiffrast(vertices, faces, cameras, resolution, screen)
    face = visible(screen, faces, resolution)
    view, y, x = (face >= 0).nonzero(as_tuple=True)
    seen = face[view, y, x]
    index = (faces[seen] + (view * len(vertices))[:, None]).flatten()
    corners = screen.flatten(0, 1).index_select(0, index).view(-1, 3, 3)
    w, _ = weigh(corners, torch.stack([x, y], -1) + 0.5)
    w = w / corners[..., 2]
    bary = screen.new_zeros(*face.shape, 3)
    return Fragments(face, bary.masked_scatter((face >= 0)[..., None], w / w.sum(1, keepdim=True)), screen, faces)


def antialias(image: Float[Tensor, "b h w c"], seen: Fragments) -> Float[Tensor, "b h w c"]:
    """The picture with its silhouettes drawn by area, which gives the vertices their gradient.

    Where a silhouette passes between the centres of two neighbouring pixels, at the part d of the way from the one that sees
    the object, the object covers 1/2 + d of that pixel if d < 1/2, and d - 1/2 of the other one otherwise; the rest shows what
    the other sees. Of several crossings in one place the outermost counts. Pairs side by side and pairs one above the other
    both measure the covered area; they are mixed by cos² and sin² of the silhouette's direction there.
    """
    if seen.kernel:
        import nvdiffrast.torch as dr

        raster, clip = seen.kernel
        return dr.antialias(image.flip(1).contiguous(), raster, clip, seen.faces.int()).flip(1)
    inner, outer, d, share = crossings(seen)
    flat = image.flatten(0, 2)
    contrast = flat.index_select(0, outer) - flat.index_select(0, inner)
    amount = share * (0.5 - d)  # of the inner pixel shows the outer's, or, where negative, the other way round
    target = torch.where(amount > 0, inner, outer)
    given = flat.new_zeros(len(flat)).index_add(0, target, amount.detach().abs())
    return flat.index_add(0, target, (amount / given[target].clamp(min=1))[:, None] * contrast).view_as(image)


def crossings(seen: Fragments) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where silhouettes pass between neighbouring pixels: the index of the pixel that sees the object, that of the one which
    does not, the part of the way d in [0, 1], which carries the gradient, and how much the pair counts, in [0, 1]."""
    screen, faces, R = seen.screen, seen.faces, seen.face.shape[1]
    with torch.no_grad():
        ends, which, _ = edges(faces, screen.shape[1])
        x, y = screen[:, faces][..., :2].unbind(-1)
        area = (x[..., 1] - x[..., 0]) * (y[..., 2] - y[..., 0]) - (x[..., 2] - x[..., 0]) * (y[..., 1] - y[..., 0])
        up = torch.where(faces < faces.roll(-1, 1), 1, -1)  # whether a face runs along its side from the lower end
        drawn = (screen[:, faces][..., 2].amin(2) > NEAR)[..., None].expand(-1, -1, 3).long()
        side = (torch.where(area < 0, -1, 1)[..., None] * up * drawn).flatten(1)
        sides, counts = (x.new_zeros(len(screen), len(ends)).index_add(1, which, x) for x in (side, drawn.flatten(1)))
        view, edge = ((counts > 0) & (sides.abs() == counts)).nonzero(as_tuple=True)  # all its faces lie on one side of it
        side = sides[view, edge].sign()
        first, last = (view * screen.shape[1] + ends[edge].T)
        a, b = (screen.flatten(0, 1)[i] for i in (first, last))
        depth = (seen.face >= 0).to(screen).flatten()
        hit = depth > 0
        corner = screen.flatten(0, 1)[(faces[seen.face.flatten()[hit]] + (hit.nonzero() // R**2) * screen.shape[1]), 2]
        depth[hit] = (seen.bary.flatten(0, 2)[hit] * corner).sum(1).reciprocal()  # 1 / z of what a pixel sees
        course = courses(view, a[:, :2], b[:, :2], side, len(screen), R)
    found = [pairs(axis, view, side, first, last, screen.flatten(0, 1), depth, course, R) for axis in (0, 1)]
    return tuple(torch.cat(columns) for columns in zip(*found, strict=True))


def courses(view: Tensor, a: Float[Tensor, "n 2"], b: Float[Tensor, "n 2"], side: Tensor, views: int, R: int) -> Tensor:
    """The direction in which silhouettes run, for each pixel: edges from a to b, turned so that the object lies on one side of
    them and in parts of a pixel at most, are added up over 3 x 3 pixels, in which what folds back and forth cancels."""
    n = (b - a).abs().amax(1).ceil().clamp(1, 2 * R).long()
    e = torch.arange(len(n), device=n.device).repeat_interleave(n, output_size=int(n.sum()))
    part = (torch.arange(len(e), device=n.device) - (n.cumsum(0) - n)[e] + 0.5) / n[e]
    x, y = (a[e] + part[:, None] * (b - a)[e]).floor().clamp(0, R - 1).long().unbind(1)
    run = (b - a) * (side / n)[:, None]
    total = run.new_zeros(views * R * R, 2).index_add(0, (view[e] * R + y) * R + x, run[e])
    return F.avg_pool2d(total.view(views, R, R, 2).permute(0, 3, 1, 2), 3, 1, 1).permute(0, 2, 3, 1).reshape(-1, 2)


def pairs(axis: int, view: Tensor, side: Tensor, first: Tensor, last: Tensor, screen: Tensor, depth: Tensor, course: Tensor,
          R: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """:func:`crossings` between pixels side by side (axis 0) or one above the other (axis 1)."""
    with torch.no_grad():
        a, b = screen[first], screen[last]
        u, v = a[:, 1 - axis], b[:, 1 - axis]  # where the edge begins and ends across the rows (or columns) of pixels
        low = (torch.minimum(u, v) - 0.5 - ASIDE).ceil().clamp(min=0)
        n = ((torch.maximum(u, v) - 0.5 - ASIDE).ceil().clamp(max=R) - low).clamp(min=0).long()
        e = torch.arange(len(n), device=n.device).repeat_interleave(n, output_size=int(n.sum()))
        row = low[e].long() + torch.arange(len(e), device=e.device) - (n.cumsum(0) - n)[e]
    a, b = screen.index_select(0, first[e]), screen.index_select(0, last[e])
    f = (row + 0.5 + ASIDE - a[:, 1 - axis]) / (b[:, 1 - axis] - a[:, 1 - axis])
    at = a[:, axis] + f * (b[:, axis] - a[:, axis]) - 0.5
    with torch.no_grad():
        left = (at - ASIDE).floor().long()
        # the object is to the right (or below) where the faces' side of the edge is
        right = side[e] * (b[:, 1 - axis] - a[:, 1 - axis]) * (-1 if axis == 0 else 1) > 0
        near = (1 - f) / a[:, 2] + f / b[:, 2]
        fits = (left >= 0) & (left + 1 < R)
        step, along = (1, R) if axis == 0 else (R, 1)
        lower = view[e] * R * R + row * along + left.clamp(0, R - 2) * step
        inner, outer = torch.where(right, lower + step, lower), torch.where(right, lower, lower + step)
        fits &= (depth[inner] > 0) & (depth[outer] < near)
        d = torch.where(right, left + 1 - at, at - left)
        key = lower * 2 + right
        order = torch.arange(len(e), device=e.device)
        best = order.new_full((2 * len(depth),), -1).scatter_reduce(0, key[fits], pack(d.clamp(min=0), order)[fits], "amax")
        kept = fits & (best[key] & 0xFFFFFFFF == order)
        around = course[torch.where(d < 0.5, inner, outer)]  # of the pixel that changes, so that nothing jumps at its centre
        run = (b - a)[:, :2]
        run = torch.where(run.norm(dim=1, keepdim=True) < 2, around, run)[kept]  # an edge of two pixels has its own direction
        share = run[:, 1 - axis].square() / run.square().sum(1).clamp(min=1e-20)
    left, right, at = left[kept], right[kept], at[kept]
    return inner[kept], outer[kept], torch.where(right, left + 1 - at, at - left), share


def nvdiffrast(vertices: Vertices, faces: Faces, cameras: Cameras, resolution: int, screen: Tensor) -> Fragments:
    """:func:`rasterize` by nvdiffrast's CUDA kernels, whose pictures begin with the lowest row."""
    import nvdiffrast.torch as dr

    clip = F.pad(vertices, (0, 1), value=1.0) @ cameras.clip_matrix(NEAR, 100.0).mT.to(vertices)
    raster, _ = dr.rasterize(dr.RasterizeCudaContext(device=vertices.device), clip.contiguous(), faces.int(),
                             (resolution, resolution))
    u, v, _, face = raster.flip(1).unbind(-1)
    bary = torch.stack([u, v, 1 - u - v], -1) * (face > 0)[..., None]
    return Fragments(face.long() - 1, bary, screen, faces, (raster, clip.contiguous()))
