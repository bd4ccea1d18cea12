"""How well a 3D object is what the prompt asked for, measured against the toybox's ground truth.

**Protocol.** The candidate is aligned with the truth first: turn about the vertical axis, shift and scale are found
(:mod:`dreamlab.metrics.align`) and reported, and held against nobody. What follows is read off 24 views of the aligned
candidate and of the truth, 15 degrees apart, the first at the front, at elevation 15, radius 2.4, field of view 40, 64 x 64
pixels, over white. A silhouette is where alpha > 1/2.

* ``turn_deg``, ``shift_x``, ``shift_y``, ``shift_z``, ``scale``: the candidate is the truth after ``p -> scale * R(-turn_deg) p
  + shift``, in degrees and world units.
* ``score``: PSNR in dB of the worst quarter of the circle. The quarters are the seven views within 45 degrees of the front, of
  either side and of the back; in each the squared error of rgb is averaged over the union of both silhouettes, grown by 2
  pixels, and the greatest of the four errors counts. So the front has to be where the front belongs, and nowhere else. The one
  number to order candidates by.
* ``iou``: intersection over union of the silhouettes, mean over views. In [0, 1], 1 is best.
* ``psnr``: -10 log10 of the mean squared error of rgb over whole pictures and all views, in dB. Greater is better.
* ``chamfer``: (mean_a min_b |a - b| + mean_b min_a |a - b|) / 2 between the candidate's points a, aligned likewise, and
  2,000 points b of the true surface, in world units. 0 is best; the truth itself reads 0.02 to 0.04.
* ``kind``, ``colour``: what the judge (:mod:`dreamlab.toybox.judge`) reads: its mean log-probabilities over the views.
  ``p_kind``, ``p_colour``: its mean probability of the kind and colour that were asked for, in [0, 1].
* ``view_ratio``: how much of the truth's change from view to view the candidate shows: <D, T> / <T, T>, where D and T are the
  differences of all pairs of views of the candidate and of the truth, blurred by 1.5 pixels. It is the slope of a regression: 1
  changes as the truth does, 0 looks the same from everywhere or changes otherwise. Noise and shifts do not count.
* ``fronts``: in how many places around the circle the judge sees a front (:func:`count_fronts`). 1 is right, 2 or more is
  Janus, 0 is faceless.
* ``saturation``, ``clipped``, ``sharpness``, inside both silhouettes, the first and last also as ratios to the truth's in the
  same pixels, and ``realism``: :mod:`dreamlab.metrics.appearance` defines them.

Where there is almost nothing to be seen (silhouettes under 1 % of the picture) ``kind`` and ``colour`` are "nothing" and
neither is right, and all else reads 0 but for the PSNR and the realism of what little there is. None of kind, colour, IoU or
view ratio says alone that an object is good: a faceless lathe has the right colour and often the right kind. How often each
reading is right on objects whose answer is known stands in ``docs/calibration.md``, which ``python -m
dreamlab.metrics.calibrate`` writes.
"""
import math
from dataclasses import asdict, dataclass
from itertools import groupby

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from dreamlab.checks import finite
from dreamlab.metrics import appearance
from dreamlab.metrics.align import FINITE, VIEWS, Aligned, RenderFn, align, decibels, iou, psnr
from dreamlab.scenes.convert import seen
from dreamlab.toybox.judge import RESOLUTION, Judge
from dreamlab.toybox.objects import COLOURS, KINDS, Toy
from dreamlab.toybox.render import blur
from dreamlab.types import Images

HIGH, LOW, DIP, WIDEST = 0.6, 0.4, 0.25, 150.0  # of a front: score to reach, to keep, dip that parts two, degrees of one
NOTHING = "nothing"  # what an empty scene reads as


@dataclass(frozen=True)
class Truth:
    """What :func:`truth` found; the module's page defines each value. ``front_scores``: the judge's scores at the 24 azimuths,
    the first at the true front."""

    score: float
    iou: float
    psnr: float
    chamfer: float | None
    kind: str
    colour: str
    kind_right: bool
    colour_right: bool
    p_kind: float
    p_colour: float
    view_ratio: float
    fronts: int
    saturation: float
    saturation_ratio: float
    clipped: float
    sharpness: float
    sharpness_ratio: float
    realism: float
    turn_deg: float
    shift_x: float
    shift_y: float
    shift_z: float
    scale: float
    front_scores: tuple[float, ...]

    @property
    def shift(self) -> tuple[float, float, float]:
        return self.shift_x, self.shift_y, self.shift_z

    def asdict(self) -> dict:
        """As a dictionary that JSON can hold."""
        return asdict(self)


def chamfer(a: Float[Tensor, "n 3"], b: Float[Tensor, "m 3"]) -> float:
    """Symmetric mean distance to the nearest point of the other cloud, in the clouds' units. ValueError for an empty cloud, and
    for one that is not finite."""
    if len(a) == 0 or len(b) == 0:
        raise ValueError(f"chamfer needs points in both clouds, got {len(a)} and {len(b)}")
    for points in (a, b):
        finite(points, "the points to be measured have", FINITE)
    distance = torch.cat([torch.cdist(chunk, b) for chunk in a.split(2048)])
    return (distance.amin(1).mean() + distance.amin(0).mean()).item() / 2


def grown(mask: Bool[Tensor, "b h w"], pixels: int = 2) -> Bool[Tensor, "b h w"]:
    """Everything within some pixels of a mask, diagonals included."""
    return F.max_pool2d(mask.float(), 2 * pixels + 1, 1, pixels) > 0


def score(pair: Aligned) -> float:
    """PSNR in dB of the worst of four quarters of the circle, over the union of the silhouettes, grown by 2 pixels."""
    union = grown(pair.mask | pair.true_mask)
    error = (pair.seen - pair.true).square().mean(-1) * union
    eighth = len(error) // 8
    quarters = torch.arange(-eighth, eighth + 1) + len(error) // 4 * torch.arange(4)[:, None]
    worst = (error.sum((1, 2))[quarters].sum(1) / union.sum((1, 2))[quarters].sum(1).clamp_min(1)).max()
    return decibels(worst.item())


def view_ratio(views: Images, true: Images) -> float:
    """<D, T> / <T, T> of the differences D and T of all pairs of views, blurred by 1.5 pixels; 0 for a truth that never
    changes."""
    d, t = (blur(x.permute(0, 3, 1, 2), 1.5) for x in (views, true))
    d, t = d - d.mean(0), t - t.mean(0)  # the sum over pairs is n times that over deviations from the mean view
    return ((d * t).sum() / t.square().sum().clamp_min(1e-9)).item()


def tops(run: list[float]) -> int:
    """How often a row of numbers tops ``HIGH``, between falls and rises by ``DIP``."""
    found, rising, last = 0, True, run[0]  # the last top or valley
    for value in [*run, -1.0]:
        if (value > last) == rising:
            last = value
        elif abs(value - last) >= DIP:
            found += rising and last > HIGH
            rising, last = not rising, value
    return found


def count_fronts(scores: Float[Tensor, "n"]) -> int:
    """In how many places a front is seen, from scores in [0, 1] at n azimuths evenly around the circle.

    The scores are smoothed by (1, 2, 1) / 4. Each range where they stay above 0.4 (``LOW``) and somewhere top 0.6 (``HIGH``)
    has as many fronts as it has such tops with a dip of 0.25 (``DIP``) between them, and at least one for each 150 degrees
    (``WIDEST``) begun: no face is seen from further around.
    """
    smooth = (scores.roll(1) + 2 * scores + scores.roll(-1)) / 4
    smooth = smooth.roll(-int(smooth.argmin())).tolist()  # no range is cut where the list begins
    ranges = [list(run) for inside, run in groupby(smooth, lambda score: score >= LOW) if inside]
    return sum(max(tops(run), math.ceil(len(run) * 360 / len(smooth) / WIDEST)) for run in ranges if max(run) > HIGH)


@torch.no_grad()
def seen_points(render: RenderFn, n: int = 4000) -> Float[Tensor, "n 3"]:
    """At most n points of the surface that a scene shows, in world units: the depth of pixels with alpha > 1/2, unprojected.

    Twelve azimuths at elevations 15 and -15 and one view from above. For Gaussians this is the surface one sees, while the
    centres of those inside it are free to be anywhere.
    """
    points, _ = seen(render, RESOLUTION)
    return points[torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:n]]


@torch.no_grad()
def truth(render: RenderFn, kind: str, colour: str, points: Float[Tensor, "n 3"] | None = None) -> Truth:
    """Measure a candidate that should be a ``colour`` ``kind``.

    ``render``: a scene's bound ``render``, or anything called like it. ``points``: places of its surface for the
    Chamfer distance (for Gaussians :func:`seen_points`); without them ``chamfer`` is None. ``ValueError`` for a kind or
    colour the toybox does not have, and for a scene that is not finite.
    """
    pair = align(render, kind, colour)
    pose, distance = pair.pose, None
    if points is not None and len(points):
        surface = Toy(kind).surface_points(2000, torch.Generator().manual_seed(0))
        distance = chamfer(pose.undo(points.detach().cpu().float()), surface)
    place = {"turn_deg": pose.turn_deg, "scale": pose.scale} | {f"shift_{x}": v for x, v in zip("xyz", pose.shift, strict=True)}
    if pair.empty:
        zero = dict.fromkeys(("score", "iou", "p_kind", "p_colour", "view_ratio"), 0.0)
        return Truth(psnr=psnr(pair.seen, pair.true), chamfer=distance, kind=NOTHING, colour=NOTHING, kind_right=False,
                     colour_right=False, fronts=0, front_scores=(0.0,) * VIEWS, **zero, **appearance.solid(pair), **place)
    logits = Judge.load()(pair.seen.permute(0, 3, 1, 2).contiguous())
    names, chance = [], []
    for known, asked, y in ((KINDS, kind, logits[0]), (COLOURS, colour, logits[1])):
        names.append(list(known)[y.log_softmax(-1).mean(0).argmax()])
        chance.append(y.softmax(-1)[:, list(known).index(asked)].mean().item())
    scores = logits[2].sigmoid()
    return Truth(score(pair), iou(pair.mask, pair.true_mask).mean().item(), psnr(pair.seen, pair.true), distance, *names,
                 names[0] == kind, names[1] == colour, *chance, view_ratio(pair.seen, pair.true), count_fronts(scores),
                 front_scores=tuple(scores.tolist()), **appearance.solid(pair), **place)
