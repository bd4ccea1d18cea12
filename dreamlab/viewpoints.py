"""From where the source views of a cost volume are seen, and from which picture each is made (GeoDream, arXiv 2311.17971).

Azimuth 0 is the front, 90 the object's left. A list of viewpoints is made by calling an object with a generator; the first four
of it, or the first alone, are the references.
"""
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dreamlab.cameras import Cameras, Fov, orbit
from dreamlab.checks import Range, check_fields
from dreamlab.costvolume import border, cut_out, hull
from dreamlab.mesh import lattice
from dreamlab.pictures import load_picture
from dreamlab.priors.diffusion import DiffusionPrior
from dreamlab.priors.multiview import sample_views
from dreamlab.priors.zero123 import Zero123
from dreamlab.priors.zero123plus import Zero123Plus
from dreamlab.prompts import Prompt
from dreamlab.types import Images

Low = Annotated[float, Range(-60, 60)]


class Viewpoint(NamedTuple):
    """Degrees, and the number of the view that is turned to it: its own for a reference."""

    azimuth_deg: float
    elevation_deg: float
    of: int


@dataclass(frozen=True)
class Circle:
    """Ours: four references 90 degrees apart; of eight views, four more between them and ``higher_deg`` higher, all references,
    made together. ValueError for another ``count``."""

    count: Annotated[int, Range(4, 8)] = 8
    elevation_deg: Low = 5.0
    higher_deg: Annotated[float, Range(-25, 25)] = 20.0

    def __post_init__(self):
        check_fields(self)
        if self.count not in (4, 8):
            raise ValueError(f"count is 4 or 8 views, got {self.count}: change it")

    def __call__(self, generator: torch.Generator) -> list[Viewpoint]:
        rings = [(0.0, self.elevation_deg), (45.0, self.elevation_deg + self.higher_deg)][: self.count // 4]
        return [Viewpoint(first + 90.0 * i, height, 4 * k + i) for k, (first, height) in enumerate(rings) for i in range(4)]


@dataclass(frozen=True)
class Official:
    """The 14 views of the official code: MVDream's four, said to be at elevation 0, and ten of the 24 that Zero123++ makes of
    them (relative azimuths 30, 90, ..., 330, at elevations ``high_deg`` and ``low_deg`` in turn: 30 and -20 in its version 1.1,
    20 and -10 in 1.2). None is made of the front."""

    high_deg: Low = 30.0
    low_deg: Low = -20.0

    def __post_init__(self):
        check_fields(self)

    def __call__(self, generator: torch.Generator) -> list[Viewpoint]:
        made = {1: (120, 240, 300, 0, 60), 2: (150,), 3: (300, 0, 60, 240)}
        return [Viewpoint(90.0 * i, 0.0, i) for i in range(4)] + [
            Viewpoint(float(azimuth), self.low_deg if (azimuth - 90 * of - 30) // 60 % 2 else self.high_deg, of)
            for of, views in made.items() for azimuth in views]


@dataclass(frozen=True)
class Near:
    """Appendix F, with the references of a multi-view prior: ``each`` views of front, left and right, less than 45 degrees of
    azimuth and 30 of elevation from them; the back as it is. That the references are source views too is our reading.
    ``back``: as many views of the back besides, without which the strategy is none (Fig. 9)."""

    each: Annotated[int, Range(1, 64)] = 3
    elevation_deg: Annotated[float, Range(-45, 45)] = 15.0
    back: bool = False

    def __post_init__(self):
        check_fields(self)

    def __call__(self, generator: torch.Generator) -> list[Viewpoint]:
        found = [Viewpoint(90.0 * i, self.elevation_deg, i) for i in range(4)]
        for of in (0, 1, 2, 3) if self.back else (0, 1, 3):
            for a, b in (2 * torch.rand(self.each, 2, generator=generator) - 1).tolist():
                found.append(Viewpoint((90 * of + 45 * a) % 360, self.elevation_deg + 30 * b, of))
        return found


@dataclass(frozen=True)
class Around:
    """Appendix F, with one reference, a 2D prior's front view or a picture: ``count`` views less than 180 degrees of azimuth
    and 30 of elevation from it, and the back, 180 degrees away at the same height."""

    count: Annotated[int, Range(1, 64)] = 8
    elevation_deg: Annotated[float, Range(-45, 45)] = 15.0

    def __post_init__(self):
        check_fields(self)

    def __call__(self, generator: torch.Generator) -> list[Viewpoint]:
        found = [Viewpoint((180 * a) % 360, self.elevation_deg + 30 * b, 0)
                 for a, b in (2 * torch.rand(self.count, 2, generator=generator) - 1).tolist()]
        return [Viewpoint(0.0, self.elevation_deg, 0), *found, Viewpoint(180.0, self.elevation_deg, 0)]


LISTS = {"Circle": Circle(), "Official": Official(), "Near": Near(), "Around": Around()}


def cameras_of(views: list[Viewpoint], fov_deg: float = 40.0) -> Cameras:
    """They stand where the toybox's field of view of 40 degrees has a distance of 2.4, another one as wide a middle."""
    radius = 2.4 * math.tan(math.radians(20.0)) / math.tan(math.radians(fov_deg / 2))
    return orbit([v.azimuth_deg for v in views], [v.elevation_deg for v in views], radius, fov_deg)


class Turned:
    """Views of a picture by an image prior: a Zero123, or the folder of a Zero123++. ``side``: of the pictures it knows, in
    pixels, and ``grey`` what they are over: white for a published Zero123."""

    def __init__(self, name: str, device: str | torch.device):
        self.six = Zero123Plus.load(name, device) if (Path(name) / "vision_encoder").is_dir() else None
        self.prior = None if self.six else Zero123.load(name, device)
        self.side = self.six.side if self.six else self.prior.resolution
        self.grey = 0.5 if self.six or self.prior.card.world == "toybox" else 1.0

    def __call__(self, picture: Float[Tensor, "p q 3"], cameras: Cameras, seen: Cameras,
                 generator: torch.Generator) -> Images:
        """What ``cameras`` see of the object that the camera ``seen`` has in the picture. ValueError where a Zero123++, whose
        six views are fixed, is asked for another."""
        if (border(picture[None]) - self.grey).abs().max() > 0.05:  # what is behind is not what it knows
            white, mask = cut_out(picture[None])
            picture = (white - (1 - mask) * (1 - self.grey))[0]
        if self.prior:
            return sample_views(self.prior, picture, cameras, generator, seen=seen)
        past = (cameras.azimuth_deg - seen.azimuth_deg).remainder(360)
        which = ((past - 30) / 60).round()
        if (off := (past - 30 - 60 * which).abs()).max() > 1:
            raise ValueError(f"Zero123++ makes views 30, 90, ... and 330 degrees past its picture, got {past[off.argmax()]:g}: "
                             'take viewpoints "Official", or a Zero123')
        return self.six.views(picture, generator)[which.long()]


@torch.no_grad()
def standing(masks: Float[Tensor, "v h w 1"], cameras: Cameras, seen: Cameras) -> tuple[float, tuple[float, float]] | None:
    """Where in the picture of the camera ``seen`` an object stands whose outlines other views have, as the hull of those says:
    the share of the picture's side that the longer side of its box has, and the middle of the box, from left and top. None
    where their hull is empty."""
    points = lattice(64, 0.95).view(-1, 3)
    points = points[hull(masks, cameras, points) > 0]
    if not len(points):
        return None
    matrix = (seen.Ks(1) @ seen.viewmats[:, :3])[0]
    there = points @ matrix[:, :3].T + matrix[:, 3]
    there = there[:, :2] / there[:, 2:]
    low, high = there.amin(0), there.amax(0)
    return (high - low).max().item(), tuple(((low + high) / 2).tolist())


@torch.no_grad()
def source_views(prompt: str, points: Callable[[torch.Generator], list[Viewpoint]], generator: torch.Generator,
                 views: str = "toybox-multiview", turn: str = "toybox-zero123", image: str | None = None,
                 guidance: float | None = None, device: str | torch.device = "cpu",
                 fov_deg: Fov = 40.0) -> tuple[Images, Cameras]:
    """Pictures (n, h, w, 3) of one object from a list of viewpoints, and their cameras, which have ``fov_deg``.

    A multi-view prior ``views`` makes all references of the prompt together; a 2D prior makes a front view, or the file
    ``image`` is one, and then the first view is the only reference. The image prior ``turn`` makes the other views, those of
    one reference together, as large as the references. Of a file nobody knows how large its object is, and how far off the
    middle: it is laid where the views that are made of it say (:func:`standing`), and they are made again.
    """
    listed = points(generator)
    cameras, prior = cameras_of(listed, fov_deg), None if image is not None else DiffusionPrior.load(views, device)
    together = prior is not None and "camera" in prior.reads
    own = [i for i, view in enumerate(listed) if view.of == i] if together else [0]
    turned = Turned(turn, device) if len(own) < len(listed) else None  # before any work, as it may not be there
    if together:
        made = sample_views(prior, prompt, cameras[own], generator, guidance)
    elif prior is not None:
        front, scale = prior.embed([f"{prompt}, front view"]), guidance or prior.card.guidance or 7.5
        made = prior.decode(prior.sample(Prompt(front, prior.null), 1, generator, scale))
    else:
        picture = load_picture(image, turned.side, turned.grey)
        first = turned(picture, cameras[1:], cameras[:1], generator)
        if place := standing(cut_out(first)[1].cpu(), cameras[1:], cameras[:1]):
            picture = load_picture(image, turned.side, turned.grey, min(max(place[0], 0.05), 0.95), place[1])
        made = picture[None]
    found, size = dict(zip(own, made, strict=True)), made.shape[1:3]
    left: dict[int, list[int]] = {}
    for i, view in enumerate(listed):
        if i not in found:
            left.setdefault(view.of if view.of in own else 0, []).append(i)
    for of, some in left.items():
        made = turned(found[of], cameras[some], cameras[of : of + 1], generator)
        if made.shape[1:3] != size:
            made = F.interpolate(made.movedim(-1, 1), size, mode="bilinear", antialias=True).movedim(1, -1)
        found |= dict(zip(some, made, strict=True))
    return torch.stack([found[i].cpu() for i in range(len(listed))]), cameras
