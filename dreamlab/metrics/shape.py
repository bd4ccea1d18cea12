"""How near a surface is to the toybox's: the distance of the surfaces themselves, and which way they face.

For scenes that have a mesh, beside :mod:`dreamlab.metrics.truth`, whose Chamfer distance is of what is seen from outside. The
candidate is aligned with the truth first, as there.

* ``mesh_chamfer``: symmetric mean distance between 8,000 points drawn evenly over each surface, in world units. 0 is best; the
  truth's own mesh on a grid of 33 corners a side reads 0.012 to 0.014. ``mesh_chamfer_unaligned``: the same as it stands.
* ``mesh_cosine``: mean over the pixels of 12 views, inside both silhouettes, of the cosine between the normals. 1 is best.
* ``inside_psnr``: -10 log10 of the mean squared error of rgb over the pixels inside both silhouettes of 24 views, in dB.
* ``watertight``: whether the mesh is closed and turned one way, with how many ``faces``.
"""
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dreamlab.cameras import ring
from dreamlab.mesh import sample, watertight
from dreamlab.metrics.align import Aligned, decibels, through
from dreamlab.metrics.truth import chamfer
from dreamlab.scenes.base import Scene
from dreamlab.toybox.objects import Toy
from dreamlab.toybox.render import mesh, trace

POINTS, VIEWS, RESOLUTION = 8000, 12, 64


@lru_cache(maxsize=8)
def true_points(kind: str) -> Float[Tensor, "n 3"]:
    """8,000 points of the true surface."""
    return sample(mesh(Toy(kind), "red"), POINTS, torch.Generator().manual_seed(1))[0]


@lru_cache(maxsize=8)
def true_normals(kind: str) -> tuple[Tensor, Tensor]:
    """The truth's normals and silhouettes from 12 sides."""
    layers = trace(Toy(kind), ring(VIEWS), RESOLUTION)
    return layers.normal, layers.alpha[..., 0] > 0.5


@torch.no_grad()
def shape(scene: Scene, pair: Aligned) -> dict[str, float | int | bool]:
    """All of these of a scene with a mesh, aligned (:func:`dreamlab.metrics.align.align`).

    ValueError for a scene without a mesh.
    """
    pose, found = pair.pose, scene.mesh()
    points, _ = sample(found, POINTS, torch.Generator().manual_seed(0))
    seen = scene.render(through(ring(VIEWS), pose.apply), RESOLUTION, torch.ones(3))
    normals, mask = true_normals(pair.kind)
    both = (seen.alpha[..., 0].cpu() > 0.5) & mask
    origin = pose.undo(torch.zeros(1, 3))
    mine = F.normalize(pose.undo(seen.normal.cpu()[both]) - origin, dim=-1)  # turned as the points are
    cosine = (mine * normals[both]).sum(-1).mean().item()
    inside = pair.mask & pair.true_mask
    points, true = points.cpu(), true_points(pair.kind)
    return {"mesh_chamfer": chamfer(pose.undo(points), true), "mesh_chamfer_unaligned": chamfer(points, true),
            "mesh_cosine": cosine,
            "inside_psnr": decibels((pair.seen - pair.true)[inside].square().mean().item()),
            "watertight": watertight(found), "faces": len(found.faces)}
