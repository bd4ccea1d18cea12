"""A scene written only for the tests: a dense grid of density and colour, in 40 lines, with what a contributor would write."""
from typing import Annotated

import torch
import torch.nn.functional as F

from dreamlab.cameras import Cameras
from dreamlab.checks import Range
from dreamlab.render.volume import volume
from dreamlab.scenes.base import Begin, Scene
from dreamlab.types import Render


class Voxels(Scene):
    """Raw density and colour (4, n, n, n) inside a ball, interpolated trilinearly."""

    rates = {"grid": 0.1}

    def __init__(self, grid: torch.Tensor):
        self.grid = grid.detach().clone().requires_grad_()

    def parameters(self) -> dict[str, torch.Tensor]:
        return {"grid": self.grid}

    @classmethod
    def rebuild(cls, config: dict, leaves: dict[str, torch.Tensor], prior=None) -> "Voxels":
        return cls(**leaves)

    def field(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        raw = F.grid_sample(self.grid[None], points[None, :, None, None].flip(-1), align_corners=True)[0, :, :, 0, 0].T
        return F.softplus(raw[:, 0]), raw[:, 1:].sigmoid()

    def render(self, cameras: Cameras, resolution: int, background: torch.Tensor,
               generator: torch.Generator | None = None) -> Render:
        return volume(self.field, cameras.to(self.grid.device), resolution, background, 6, 0.9, generator)


def voxels(begin: Begin, *, side: Annotated[int, Range(2, 256)] = 16) -> Voxels:
    """A soft ball of grey with a little noise."""
    axis = torch.linspace(-1, 1, side)
    away = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).norm(dim=0)
    colour = 0.1 * torch.randn(3, side, side, side, generator=begin.generator)
    return Voxels(torch.cat([(4 - 12 * away)[None], colour]))
