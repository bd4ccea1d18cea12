"""Scalars that a stage adds to its loss."""
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dreamlab.checks import NotNegative, check_fields
from dreamlab.mesh import edges, face_normals
from dreamlab.types import Render


def total_variation(images: Float[Tensor, "b h w c"]) -> Float[Tensor, ""]:
    """Mean squared difference of neighbouring pixels, down the columns plus along the rows."""
    return images.diff(dim=1).square().mean() + images.diff(dim=2).square().mean()


def disparity(depth: Float[Tensor, "b h w 1"], alpha: Float[Tensor, "b h w 1"]) -> Float[Tensor, "b h w 1"]:
    """1 / depth over each view's largest, times coverage: 0 where nothing is, 1 at what is nearest. ``depth`` along z."""
    near = torch.where(alpha > 0.05, 1 / depth.clamp(min=1e-3), 0)
    return alpha * near / near.amax((1, 2, 3), keepdim=True).clamp(min=1e-6)


@dataclass(frozen=True)
class Smooth:
    """LucidDreamer's regularisers: scale * mean scale of the Gaussians + tv * (TV(rgb) + TV(disparity)).

    Its 1.0 and 0.1 are of a sum over 4 views, times 0.1; ours of their mean. ValueError for a ``scale`` where no Gaussians are.
    """

    scale: NotNegative = 2.5
    tv: NotNegative = 2.5

    def __post_init__(self):
        check_fields(self)

    def check(self, scene) -> None:
        """ValueError for a scene that one of them does not fit."""
        if self.scale and "scales" not in scene.parameters():
            raise ValueError(f"regularise.scale must be 0 for a {type(scene).__name__}, which has no scales, got "
                             f"{self.scale:g}: change it")
        if self.tv and scene.dimensions == 2:
            raise ValueError(f"regularise.tv must be 0 for pictures, which have no depth, got {self.tv:g}: change it")

    def __call__(self, scene, render: Render) -> Float[Tensor, ""]:
        total = self.tv * (total_variation(render.rgb) + total_variation(disparity(render.depth, render.alpha)))
        return total + self.scale * scene.scales.mean() if self.scale else total


@dataclass(frozen=True)
class Surface:
    """Keeps a surface smooth: consistency * mean(1 - cos) of the normals of two faces that share an edge + laplacian * mean
    distance of a vertex from the mean of its neighbours (uniform Laplacian), in world units. ProlificDreamer's are 1e4 both, in
    threestudio, on a sum over the pixels of 512² that our mean over views knows nothing of."""

    consistency: NotNegative = 1.0
    laplacian: NotNegative = 1.0

    def __post_init__(self):
        check_fields(self)

    def check(self, scene) -> None:
        """ValueError for a scene without a surface of its own that learns."""
        if (leaf := scene.parameters().get("sdf")) is None or not leaf.requires_grad:
            raise ValueError(f"regularise = Surface smooths the mesh of a Tets, got a {type(scene).__name__}: leave it out")

    def __call__(self, scene, render: Render) -> Float[Tensor, ""]:
        vertices, faces = scene.surface()
        ends, which, counts = edges(faces, len(vertices))
        normals = torch.nn.functional.normalize(face_normals(vertices, faces), dim=-1)
        pairs = which.argsort(stable=True)[(counts == 2).repeat_interleave(counts)].view(-1, 2) // 3  # the faces of an edge
        bend = 1 - (normals.index_select(0, pairs[:, 0]) * normals.index_select(0, pairs[:, 1])).sum(1)
        a, b = ends.unbind(1)
        total = torch.zeros_like(vertices).index_add(0, a, vertices.index_select(0, b)).index_add(
            0, b, vertices.index_select(0, a))
        degree = torch.bincount(ends.flatten(), minlength=len(vertices)).clamp(min=1)
        away = (total / degree[:, None] - vertices).norm(dim=1)
        return self.consistency * bend.mean() + self.laplacian * away.mean()
