"""The judge: a small network that names the kind and the main colour in a picture, and says whether it shows a front.

It is a measuring instrument of :mod:`dreamlab.metrics.truth`, not a prior: it is trained on every kind in every colour,
held-out pairs included, and on what text-to-3D gets wrong, namely objects with several fronts, with none, turned on a
lathe, untextured, blurred, noisy, or made of splats (:mod:`dreamlab.toybox.training.judge`).
"""
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dreamlab.files import load_weights
from dreamlab.toybox.objects import COLOURS, KINDS

WEIGHTS = Path(__file__).parent / "weights" / "judge"
RESOLUTION = 64
# A view shows a front fully up to 15 degrees beside it, and no more beyond 35; the target falls linearly in between.
FRONT_DEG = (15.0, 35.0)
Logits = Float[Tensor, "b 8"]


def block(c_in: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c_in, c_out, 3, 2, 1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU(),
                         Residual(c_out))


class Residual(nn.Module):
    def __init__(self, c: int):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(c, c, 3, 1, 1, bias=False), nn.BatchNorm2d(c), nn.ReLU(),
                                  nn.Conv2d(c, c, 3, 1, 1, bias=False), nn.BatchNorm2d(c))

    def forward(self, x):
        return F.relu(x + self.body(x))


class Judge(nn.Module):
    """Pictures (B, 3, 64, 64) in [0, 1] -> logits of the kind (B, 8), of the colour (B, 8), of "shows a front" (B,)."""

    def __init__(self, channels: tuple[int, ...] = (16, 32, 64, 128)):
        super().__init__()
        self.trunk = nn.Sequential(*(block(a, b) for a, b in zip((3, *channels), channels, strict=False)))
        self.head = nn.Linear(2 * channels[-1], len(KINDS) + len(COLOURS) + 1)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> tuple[Logits, Logits, Float[Tensor, "b"]]:
        if x.shape[-2:] != (RESOLUTION, RESOLUTION):
            raise ValueError(f"the judge reads 64 x 64 pictures, got {tuple(x.shape[-2:])}: resize them first")
        h = self.trunk(x * 2 - 1)
        h = self.head(torch.cat([h.mean((2, 3)), h.amax((2, 3))], -1))
        kind, colour, front = h.split([len(KINDS), len(COLOURS), 1], -1)
        return kind, colour, front[:, 0]

    @staticmethod
    @lru_cache
    def load(folder: Path = WEIGHTS) -> "Judge":
        """The bundled judge, or that of another folder, in float32 and ready to read. Errors as of ``load_weights``."""
        judge = Judge()
        weights = load_weights(Path(folder) / "judge.safetensors", "install dreamlab again, or train a judge with "
                               "`dreamlab toybox train judge`", like=judge.state_dict())
        judge.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
        return judge.eval().requires_grad_(False)
