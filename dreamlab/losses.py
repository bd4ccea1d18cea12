"""Scalars that a stage adds to its loss."""
import torch
from jaxtyping import Float
from torch import Tensor


def total_variation(images: Float[Tensor, "b h w c"]) -> Float[Tensor, ""]:
    """Mean squared difference of neighbouring pixels, down the columns plus along the rows."""
    return images.diff(dim=1).square().mean() + images.diff(dim=2).square().mean()


def disparity(depth: Float[Tensor, "b h w 1"], alpha: Float[Tensor, "b h w 1"]) -> Float[Tensor, "b h w 1"]:
    """1 / depth over each view's largest, times coverage: 0 where nothing is, 1 at what is nearest. ``depth`` along z."""
    near = torch.where(alpha > 0.05, 1 / depth.clamp(min=1e-3), 0)
    return alpha * near / near.amax((1, 2, 3), keepdim=True).clamp(min=1e-6)
