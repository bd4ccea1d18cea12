"""How right sets of views are: pictures that should show one toy from known cameras, against the toybox's ground truth.

* ``psnr``: -10 log10 of the mean squared error against the true views, over whole pictures, in dB.
* ``turn_deg``: how far round the true view that is nearest (in mean squared error, of ``TURNS`` evenly around, at the camera's
  own elevation and distance) stands from the azimuth that was asked for, in [-180, 180) degrees; each view for itself.
  ``off_deg``: the farthest of them, and ``apart_deg``: the farthest two from each other, in [0, 180].
* ``kind_right``, ``colour_right``: whether the judge reads what was asked for from the mean of its log-probabilities.
* ``fronts``: in how many of the views the judge sees a front. A ring of four that begins at the front shows one.
"""
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from dreamlab.cameras import Cameras, orbit
from dreamlab.metrics.align import psnr
from dreamlab.toybox.judge import Judge
from dreamlab.toybox.objects import COLOURS, KINDS, Toy, colour_rgb
from dreamlab.toybox.render import Layers, render, trace
from dreamlab.types import Images

TURNS = 72  # azimuths that a view is compared with


@dataclass(frozen=True)
class Reading:
    """What :func:`read_views` found of one set; the module's page defines each value."""

    psnr: float
    turn_deg: Float[Tensor, "n"]
    kind_right: bool
    colour_right: bool
    fronts: int

    @property
    def off_deg(self) -> float:
        return self.turn_deg.abs().max().item()

    @property
    def apart_deg(self) -> float:
        return wrapped(self.turn_deg - self.turn_deg[:, None]).abs().max().item()


def wrapped(degrees: Tensor) -> Tensor:
    """Angles in [-180, 180)."""
    return (degrees + 180).remainder(360) - 180


@lru_cache(maxsize=64)
def around(kind: str, elevation_deg: float, radius: float, fov_deg: float, resolution: int) -> Layers:
    """A toy from ``TURNS`` azimuths."""
    return trace(Toy(kind), orbit(torch.arange(TURNS) * (360 / TURNS), elevation_deg, radius, fov_deg), resolution)


@torch.no_grad()
def read_views(pictures: Images, cameras: Cameras, kind: str, colour: str, background: float) -> Reading:
    """Read a set of pictures (n, 64, 64, 3) over a grey of ``background``. ValueError for pictures and cameras that differ in
    number, and for a kind or colour that the toybox does not have."""
    if len(pictures) != len(cameras):
        raise ValueError(f"each picture has a camera, got {len(pictures)} and {len(cameras)}: give as many")
    size, behind = pictures.shape[1], (background,) * 3
    true = render(Toy(kind), colour, cameras, size, behind).rgb
    rgb, nearest = torch.tensor(colour_rgb(colour)), []
    for picture, *place in zip(pictures, cameras.azimuth_deg.tolist(), cameras.elevation_deg.tolist(), cameras.radius.tolist(),
                               cameras.fov_deg.tolist(), strict=True):
        turns = around(kind, *place[1:], size).rgb(rgb, torch.tensor(behind))
        nearest.append((turns - picture).square().mean((1, 2, 3)).argmin().item() * (360 / TURNS))
    logits = Judge.load()(pictures.movedim(-1, 1).contiguous())
    read = [list(known)[y.log_softmax(-1).mean(0).argmax()] for known, y in ((KINDS, logits[0]), (COLOURS, logits[1]))]
    turns = wrapped(torch.tensor(nearest) - cameras.azimuth_deg)
    return Reading(psnr(pictures, true), turns, read[0] == kind, read[1] == colour, int((logits[2] > 0).sum()))
