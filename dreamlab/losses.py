"""Scalars that a stage adds to its loss."""
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from dreamlab.checks import Count, NotNegative, Range, Share, check_fields
from dreamlab.mesh import edges, face_normals
from dreamlab.types import Render

GOLDEN = (5**0.5 - 1) / 2  # whose multiples fill [0, 1) evenly, however many they are


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
class Orientation:
    """What is seen faces the camera (Ref-NeRF, arXiv 2112.03907, Eq. 11): weight * sum_i w_i max(n_i . d_i, 0)² / rays.

    n_i is the normal at a sample, d_i the direction of its ray, w_i its T alpha, which is held fixed; ``rays`` counts
    those that see anything. ``weight`` may rise, from first to last linearly by ``until`` of the steps. All is threestudio's,
    and so are the numbers for DreamFusion: 10 to 1000 over 5000 of 10,000 steps. ``points`` samples a piece of the batch stand
    for all of them: evenly along the sum of w, so each for the same share of what is seen, and nothing is drawn at random.
    """

    weight: NotNegative | tuple[NotNegative, NotNegative] = (10.0, 1000.0)
    until: Annotated[float, Range(0, 1, "low")] = 0.5
    points: Count = 2048

    def __post_init__(self):
        check_fields(self)

    def check(self, scene) -> None:
        """ValueError for a scene without normals."""
        if not hasattr(scene, "normals"):
            raise ValueError(f"regularise must not be Orientation for a {type(scene).__name__}, which is no field with normals:"
                             " choose another, or none")

    def at(self, step: int, steps: int) -> "Orientation":
        """With the weight of this step."""
        if not isinstance(self.weight, tuple):
            return self
        first, last = self.weight
        return replace(self, weight=first + (last - first) * min(step / max(self.until * steps, 1), 1.0))

    def __call__(self, scene, render: Render) -> Float[Tensor, ""]:
        """Of a render with its samples, and the first weight of two."""
        samples, rays = render.samples, (render.alpha > 0).sum()
        upto = samples.weights.double().cumsum(0)
        if not rays:
            return render.alpha.new_zeros(())
        k = torch.arange(self.points).to(upto)
        shares = (k + k * GOLDEN % 1) / self.points  # each somewhere else in its stretch, so in step with no ray
        chosen = torch.searchsorted(upto, shares * upto[-1]).clamp(max=len(upto) - 1)
        facing = (scene.normals(samples.places[chosen]) * samples.directions[samples.ray[chosen]]).sum(-1)
        weight = self.weight[0] if isinstance(self.weight, tuple) else self.weight
        return weight * (upto[-1] / rays).to(facing) * facing.clamp(min=0).square().mean()


@dataclass(frozen=True)
class Sparse:
    """Takes away what is not needed: weight * mean sqrt(alpha² + 0.01) over the pixels (threestudio's sparsity, GeoDream's with
    10). Where the background has one colour only, a scene may hide in it what is left of its start.

    From the share ``since`` of the run, ``opaque`` times the mean entropy of alpha besides, in nats: what is left is seen or is
    not there (threestudio's opaque loss, GeoDream's with 1000 from a sixth of its run).
    """

    weight: NotNegative = 10.0
    opaque: NotNegative = 0.0
    since: Share = 0.0

    def __post_init__(self):
        check_fields(self)

    def check(self, scene) -> None:
        """ValueError for pictures, which cover all of themselves."""
        if scene.dimensions == 2:
            raise ValueError(f"regularise must not be Sparse for a {type(scene).__name__}, which covers all of its pixels: "
                             "leave it out")

    def at(self, step: int, steps: int) -> "Sparse":
        """What holds at this step."""
        return replace(self, opaque=0.0) if self.opaque and step < self.since * steps else self

    def __call__(self, scene, render: Render) -> Float[Tensor, ""]:
        total = self.weight * (render.alpha.square() + 0.01).sqrt().mean()
        if self.opaque:
            alpha = render.alpha.clamp(1e-3, 1 - 1e-3)
            total = total + self.opaque * torch.nn.functional.binary_cross_entropy(alpha, alpha)
        return total


@dataclass(frozen=True)
class Surface:
    """Keeps a surface smooth: consistency * mean(1 - cos) of the normals of two faces that share an edge + laplacian * mean
    distance of a vertex from the mean of its neighbours (uniform Laplacian), in world units. ProlificDreamer's are 1e4 both, in
    threestudio, whose loss of a view is a sum over its latents, as ours is."""

    consistency: NotNegative = 1e4
    laplacian: NotNegative = 1e4

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
