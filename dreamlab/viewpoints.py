"""From where the source views of a cost volume are seen, and from which picture each is made (GeoDream, arXiv 2311.17971).

Azimuth 0 is the front, 90 the object's left. A list of viewpoints is made by calling an object with a generator; the first four
of it, or the first alone, are the references.
"""
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch

from dreamlab.cameras import Cameras, orbit
from dreamlab.checks import Range, check_fields
from dreamlab.pictures import load_picture
from dreamlab.priors.diffusion import DiffusionPrior
from dreamlab.priors.multiview import sample_views
from dreamlab.priors.zero123 import Zero123
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
    them (relative azimuths 30, 90, ..., 330, at elevations 30 and -20 in turn). None is made of the front."""

    def __call__(self, generator: torch.Generator) -> list[Viewpoint]:
        made = {1: [(120, 30), (240, 30), (300, -20), (0, 30), (60, -20)], 2: [(150, -20)],
                3: [(300, 30), (0, -20), (60, 30), (240, -20)]}
        return [Viewpoint(90.0 * i, 0.0, i) for i in range(4)] + [
            Viewpoint(float(azimuth), float(height), of) for of, views in made.items() for azimuth, height in views]


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


def cameras_of(views: list[Viewpoint], **more) -> Cameras:
    """``more``: as of :func:`dreamlab.cameras.orbit`."""
    return orbit([v.azimuth_deg for v in views], [v.elevation_deg for v in views], **more)


@torch.no_grad()
def source_views(prompt: str, points: Callable[[torch.Generator], list[Viewpoint]], generator: torch.Generator,
                 views: str = "toybox-multiview", turn: str = "toybox-zero123", image: str | None = None,
                 guidance: float | None = None, device: str | torch.device = "cpu") -> tuple[Images, Cameras]:
    """Pictures (n, h, w, 3) of one object from a list of viewpoints, and their cameras.

    A multi-view prior ``views`` makes all references of the prompt together; a 2D prior makes a front view, or the file
    ``image`` is one, and then the first view is the only reference. The image prior ``turn`` makes the other views, those of
    one reference together.
    """
    listed = points(generator)
    cameras, found = cameras_of(listed), {}
    if image is not None:
        found = {0: load_picture(image)}
    else:
        prior = DiffusionPrior.load(views, device)
        if "camera" in prior.reads:
            own = [i for i, view in enumerate(listed) if view.of == i]
            found = dict(zip(own, sample_views(prior, prompt, cameras_of([listed[i] for i in own]), generator, guidance),
                             strict=True))
        else:
            front, scale = prior.embed([f"{prompt}, front view"]), guidance or prior.card.guidance or 7.5
            found = {0: prior.decode(prior.sample(Prompt(front, prior.null), 1, generator, scale))[0]}
    left: dict[int, list[int]] = {}
    for i, view in enumerate(listed):
        if i not in found:
            left.setdefault(view.of if view.of in found and view.of != i else 0, []).append(i)
    prior = Zero123.load(turn, device) if left else None
    for of, some in left.items():
        made = sample_views(prior, found[of], cameras_of([listed[i] for i in some]), generator, seen=cameras[of : of + 1])
        found |= dict(zip(some, made, strict=True))
    return torch.stack([found[i].cpu() for i in range(len(listed))]), cameras
