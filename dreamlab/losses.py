"""Scalars that a stage adds to its loss."""
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dreamlab.checks import NotNegative, check_fields
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
