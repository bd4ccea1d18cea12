"""Triangle meshes with a colour at each vertex: made from a field by marching cubes, turned into points of the surface."""
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Mesh:
    """``faces`` are indices of three vertices each; ``colours`` are the vertices' own."""

    vertices: Float[Tensor, "v 3"]
    faces: Int[Tensor, "f 3"]
    colours: Float[Tensor, "v 3"]


def sample(mesh: Mesh, n: int, generator: torch.Generator) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
    """n points evenly over the surface, with colours interpolated from the corners of their triangles.

    A triangle is drawn by its area; in it p = (1 - sqrt(u)) a + sqrt(u) (1 - v) b + sqrt(u) v c with u, v uniform in [0, 1].
    ValueError for a mesh without area.
    """
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    area = torch.linalg.cross(b - a, c - a).norm(dim=-1) / 2
    if not area.sum() > 0:
        raise ValueError(f"a mesh of {len(mesh.faces)} triangles and area {area.sum():g} has no surface to draw points from")
    face = torch.multinomial(area, n, replacement=True, generator=generator)
    u, v = torch.rand(2, n, 1, generator=generator)
    weights = torch.stack([1 - u.sqrt(), u.sqrt() * (1 - v), u.sqrt() * v], 1)  # (n, 3, 1)
    corners = mesh.faces[face]
    return (weights * mesh.vertices[corners]).sum(1), (weights * mesh.colours[corners]).sum(1)


def marching_cubes(values: Float[Tensor, "n n n"], bound: float) -> tuple[Float[Tensor, "v 3"], Int[Tensor, "f 3"]]:
    """Vertices and faces of the surface where a field is 0, from its values at n places from -bound to bound on each axis
    (x, y, z). Needs scikit-image."""
    from skimage import measure

    vertices, faces, _, _ = measure.marching_cubes(values.numpy(), 0.0)
    v = torch.from_numpy(vertices.copy()).float() * (2 * bound / (len(values) - 1)) - bound
    return v, torch.from_numpy(faces.copy()).long()
