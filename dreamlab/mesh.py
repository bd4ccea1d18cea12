"""Triangle meshes: made from a field by marching tetrahedra, checked, cleaned, turned into points of the surface."""
from dataclasses import dataclass
from itertools import permutations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

Vertices = Float[Tensor, "v 3"]
Faces = Int[Tensor, "f 3"]


@dataclass(frozen=True)
class Mesh:
    """``faces`` are indices of three vertices each, counter-clockwise from outside; ``colours`` are the vertices' own."""

    vertices: Vertices
    faces: Faces
    colours: Float[Tensor, "v 3"]


def kuhn() -> Int[Tensor, "6 4 3"]:
    """A cube's six tetrahedra (Kuhn 1960), by the corners in {0, 1}³ that each has: the ways from corner 000 to corner 111
    along three edges. All turn the same way, and those of neighbouring cubes share their faces."""
    tets = []
    for way in permutations(range(3)):
        corners = torch.cat([torch.zeros(1, 3), torch.eye(3)[list(way)].cumsum(0)])
        if torch.linalg.det(corners[1:]) < 0:
            corners = corners[[0, 1, 3, 2]]
        tets.append(corners.long())
    return torch.stack(tets)


def cases() -> tuple[Int[Tensor, "16 2 3 2"], Int[Tensor, "16"]]:
    """How the surface cuts a tetrahedron, by which corners are inside (bit i for corner i): up to two triangles, of three
    points each on an edge between two corners, and how many triangles.

    One corner apart from three is cut off by a triangle; two from two by the quadrilateral whose sides lie in the four faces.
    Each triangle is turned so that the corners outside are in front of it.
    """
    corners = torch.cat([torch.zeros(1, 3), torch.eye(3)])  # of a tetrahedron that turns as Kuhn's do
    table, counts = torch.zeros(16, 2, 3, 2, dtype=torch.long), torch.zeros(16, dtype=torch.long)
    for case in range(1, 15):
        inside = [i for i in range(4) if case >> i & 1]
        outside = [i for i in range(4) if not case >> i & 1]
        if len(inside) == 2:
            (a, b), (c, d) = inside, outside
            ring = [(a, c), (a, d), (b, d), (b, c)]
            triangles = [ring[:3], [ring[0], *ring[2:]]]
        else:
            triangles = [[(i, j) for i in inside for j in outside]]
        for n, triangle in enumerate(triangles):
            p, q, r = (corners[list(edge)].mean(0) for edge in triangle)
            if torch.linalg.cross(q - p, r - p) @ (corners[outside].mean(0) - corners[inside].mean(0)) < 0:
                triangle = triangle[::-1]
            table[case, n] = torch.tensor(triangle)
        counts[case] = len(triangles)
    return table, counts


KUHN, (CASES, COUNTS) = kuhn(), cases()


def marching_tetrahedra(values: Float[Tensor, "x y z"], places: Float[Tensor, "x y z 3"]) -> tuple[Vertices, Faces]:
    """The surface where a field passes 0, from its values at the corners of a grid of cubes and where these corners are.

    Negative is inside, and counts so where it is 0 outside. Each cube is six tetrahedra, and the field is linear in each (Doi
    and Koide 1991; Shen et al., arXiv 2111.04276): an edge from p to q whose values differ in sign has the vertex p + a / (a -
    b) (q - p). So the surface is closed, however the corners are moved, unless it leaves the grid; it has no vertex twice, and
    is differentiable in values and places. Nothing inside gives no faces. ValueError for values that are not finite.
    """
    if not values.isfinite().all():
        raise ValueError(f"the field has {int((~values.isfinite()).sum())} of {values.numel()} values that are not finite: "
                         "give finite ones")
    shape, flat = values.shape, values.flatten()
    with torch.no_grad():
        inside = values < 0
        n = sum(inside[x:shape[0] - 1 + x, y:shape[1] - 1 + y, z:shape[2] - 1 + z].long()
                for x in (0, 1) for y in (0, 1) for z in (0, 1))
        cells = ((n > 0) & (n < 8)).nonzero()
        stride = torch.tensor([shape[1] * shape[2], shape[2], 1], device=values.device)
        tets = ((cells @ stride)[:, None, None] + KUHN.to(cells) @ stride).view(-1, 4)
        case = (inside.flatten()[tets] * torch.tensor([1, 2, 4, 8], device=values.device)).sum(1)
        counts = COUNTS.to(case)[case]
        tet = torch.arange(len(tets), device=values.device).repeat_interleave(counts)
        second = torch.cat([tet.new_zeros(1, dtype=torch.bool), tet.diff() == 0])[:len(tet)].long()
        ends = tets[tet[:, None, None], CASES.to(case)[case[tet], second]].sort(-1).values  # (f, 3, 2)
        edges, faces = torch.unique(ends[..., 0] * flat.numel() + ends[..., 1], return_inverse=True)
        p, q = edges // flat.numel(), edges % flat.numel()
    a, b, at = flat[p], flat[q], places.reshape(-1, 3)
    return at[p] + (a / (a - b))[:, None] * (at[q] - at[p]), faces.view(-1, 3)


def lattice(n: int, bound: float) -> Float[Tensor, "n n n 3"]:
    """n places a side of the cube from -bound to bound, its borders among them."""
    axis = torch.linspace(-bound, bound, n)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)


def edges(faces: Faces, n: int) -> tuple[Int[Tensor, "e 2"], Int[Tensor, "f3"], Int[Tensor, "e"]]:
    """The edges of a mesh of n vertices: the two ends of each, lower first; which edge each side of each face is, (0, 1), (1,
    2), (2, 0); and how many faces have it."""
    sides = torch.stack([faces, faces.roll(-1, 1)], -1).view(-1, 2)
    keys = sides.amin(1) * n + sides.amax(1)
    found, which, counts = torch.unique(keys, return_inverse=True, return_counts=True)
    return torch.stack([found // n, found % n], -1), which, counts


def watertight(mesh: Mesh) -> bool:
    """Whether each side of each face is, the other way round, that of exactly one other: closed, and turned one way."""
    sides = torch.stack([mesh.faces, mesh.faces.roll(-1, 1)], -1).view(-1, 2)
    n = len(mesh.vertices)
    there, back = sides[:, 0] * n + sides[:, 1], sides[:, 1] * n + sides[:, 0]
    there = there.sort().values
    return len(there) > 0 and bool((there.diff() > 0).all() and (there == back.sort().values).all())


def euler(mesh: Mesh) -> int:
    """Vertices - edges + faces: 2 for each ball, 0 for each torus."""
    return len(mesh.faces.unique()) - len(edges(mesh.faces, len(mesh.vertices))[0]) + len(mesh.faces)


def volume(mesh: Mesh) -> Float[Tensor, ""]:
    """Enclosed by a closed mesh, negative where it is turned inside out: sum of det(a, b, c) / 6 over the faces."""
    return torch.linalg.det(mesh.vertices[mesh.faces]).sum() / 6


def pieces(faces: Faces, n: int) -> Int[Tensor, "f"]:
    """Which connected piece each face belongs to, by the lowest vertex of it."""
    label = torch.arange(n, device=faces.device)
    while True:
        lowest = label[faces].amin(1, keepdim=True).expand(-1, 3)
        new = label.scatter_reduce(0, faces.flatten(), lowest.flatten(), "amin")
        new = new[new]
        if torch.equal(new, label):
            return label[faces[:, 0]]
        label = new


def large(faces: Faces, n: int, least: float = 0.01) -> Bool[Tensor, "f"]:
    """Which faces are in no floater: a connected piece with less than ``least`` of all faces (GeoDream's rule)."""
    if not len(faces):
        return faces.new_zeros(0, dtype=torch.bool)
    _, which, counts = torch.unique(pieces(faces, n), return_inverse=True, return_counts=True)
    return (counts >= least * len(faces))[which]


def cut(vertices: Vertices, faces: Faces) -> tuple[Float[Tensor, "u 3"], Faces]:
    """The same faces over the vertices that they use."""
    used, which = torch.unique(faces, return_inverse=True)
    return vertices[used], which.view(-1, 3)


def face_normals(vertices: Vertices, faces: Faces) -> Float[Tensor, "f 3"]:
    """Twice the area times the unit normal of each face."""
    a, b, c = vertices.index_select(0, faces.flatten()).view(-1, 3, 3).unbind(1)
    return torch.linalg.cross(b - a, c - a)


def vertex_normals(vertices: Vertices, faces: Faces) -> Vertices:
    """Unit normals at the vertices: those of the faces around, weighted by area. 0 where there is no area."""
    normals = face_normals(vertices, faces).repeat_interleave(3, 0)
    return torch.nn.functional.normalize(torch.zeros_like(vertices).index_add(0, faces.flatten(), normals), dim=-1)


def sample(mesh: Mesh, n: int, generator: torch.Generator) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
    """n points evenly over the surface, with colours interpolated from the corners of their triangles.

    A triangle is drawn by its area; in it p = (1 - sqrt(u)) a + sqrt(u) (1 - v) b + sqrt(u) v c with u, v uniform in [0, 1].
    ValueError for a mesh without area.
    """
    area = face_normals(mesh.vertices, mesh.faces).norm(dim=-1) / 2
    if not area.sum() > 0:
        raise ValueError(f"a mesh of {len(mesh.faces)} triangles and area {area.sum():g} has no surface to draw points from")
    face = torch.multinomial(area, n, replacement=True, generator=generator)
    u, v = torch.rand(2, n, 1, generator=generator)
    weights = torch.stack([1 - u.sqrt(), u.sqrt() * (1 - v), u.sqrt() * v], 1)  # (n, 3, 1)
    corners = mesh.faces[face]
    return (weights * mesh.vertices[corners]).sum(1), (weights * mesh.colours[corners]).sum(1)


def filled(shell: Bool[Tensor, "n n n"]) -> Bool[Tensor, "n n n"]:
    """A shell and what it encloses: all that cannot be reached from the border, from cell to cell through their sides."""
    wall, reached = shell.float()[None, None], torch.zeros_like(shell)
    for axis in range(3):
        reached.select(axis, 0)[:] = reached.select(axis, -1)[:] = True
    reached = reached.float()[None, None] * (1 - wall)
    while True:
        grown = sum(F.max_pool3d(reached, side, 1, [k // 2 for k in side]) for side in ((3, 1, 1), (1, 3, 1), (1, 1, 3)))
        grown = (grown > 0) * (1 - wall)
        if torch.equal(grown, reached):
            return reached[0, 0] == 0
        reached = grown


def solid(values: Float[Tensor, "n n n"]) -> Float[Tensor, "n n n"]:
    """Signed distances on a grid, negative inside, without closed cavities: what cannot be reached from the border, and so be
    seen, is inside, as deep as it was outside."""
    return torch.where(filled(values < 0) & (values >= 0), -values - 1e-3, values)
