"""How well a 3D object is what the prompt asked for, measured against the toybox's ground truth.

**Protocol.** The candidate is rendered once: 24 views, 15 degrees apart, at elevation 15, radius 2.4, field of view
40, 64 x 64 pixels, over white. The truth is rendered likewise every 5 degrees. Nobody promised the candidate a frame,
so it is compared at each of 72 turns about the vertical axis; the turn with the greatest ``IoU + PSNR / 30`` counts.

* ``iou``: intersection over union of the silhouettes (alpha > 1/2), mean over 12 views. In [0, 1], 1 is best.
* ``psnr``: -10 log10 of the mean squared error of rgb over 12 views, in dB. Greater is better.
* ``chamfer``: (mean_a min_b |a - b| + mean_b min_a |a - b|) / 2 between the candidate's points a, turned likewise, and
  2,000 points b of the true surface, in world units. 0 is best; the truth itself reads 0.02 to 0.04.
* ``kind``, ``colour``: what the judge (:mod:`dreamlab.toybox.judge`) reads: its mean log-probabilities over 24 views.
* ``view_ratio``: mean over pairs of 12 views of their RMS difference, as a share of the truth's. 1 varies as much as
  the truth does, 0 looks the same from everywhere. Noise also varies: read it together with the PSNR.
* ``fronts``: in how many separate ranges of azimuth the judge sees a front. 1 is right, 2 or more is Janus, 0 is
  faceless. The judge's score of 24 views is smoothed by (1, 2, 1) / 4 around the circle; a range is where it stays
  above 0.4 and somewhere passes 0.6, and counts once for every 150 degrees begun: no face is seen from further around.

None of kind, colour or view ratio says alone that an object is good: a faceless lathe has the right colour, often the
right kind, and noise has a view ratio. How often each reading is right on objects whose answer is known stands in
``docs/calibration.md``, which ``python -m dreamlab.metrics.calibrate`` writes.
"""
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import groupby

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dreamlab.cameras import Cameras, ring
from dreamlab.scenes.convert import seen
from dreamlab.toybox.judge import RESOLUTION, Judge
from dreamlab.toybox.objects import COLOURS, KINDS, Toy, colour_rgb
from dreamlab.toybox.render import Layers, trace
from dreamlab.types import Images, Render

VIEWS = 24  # views of the candidate; every second one is compared with the truth
TURNS = 72  # views of the truth, and so turns that are tried
HIGH, LOW, WIDEST = 0.6, 0.4, 150.0  # of a front: score to reach, score to keep, degrees one face is seen over

RenderFn = Callable[[Cameras, int, Tensor], Render]  # (cameras, resolution, background (3,)) -> Render


@dataclass(frozen=True)
class Truth:
    """What :func:`truth` found; the module's page defines each value. ``turn_deg``: the truth seen from azimuth
    ``a + turn_deg`` is what the candidate shows at ``a``. ``front_scores``: the judge's scores at the 24 azimuths."""

    iou: float
    psnr: float
    chamfer: float | None
    kind: str
    colour: str
    kind_right: bool
    colour_right: bool
    view_ratio: float
    fronts: int
    turn_deg: float
    front_scores: tuple[float, ...]

    def asdict(self) -> dict:
        """As a dictionary that JSON can hold."""
        return asdict(self)


def iou(a: Bool[Tensor, "*b h w"], b: Bool[Tensor, "*b h w"]) -> Float[Tensor, "*b"]:
    """Intersection over union of masks, 1 for two empty ones."""
    union = (a | b).sum((-2, -1))
    return torch.where(union > 0, (a & b).sum((-2, -1)) / union.clamp_min(1), 1.0)


def psnr(a: Float[Tensor, "*b h w 3"], b: Float[Tensor, "*b h w 3"]) -> float:
    """-10 log10 mean (a - b)^2 in dB, of pictures in [0, 1] (of 99 dB at most)."""
    return -10 * math.log10(max((a - b).square().mean().item(), 10**-9.9))


def chamfer(a: Float[Tensor, "n 3"], b: Float[Tensor, "m 3"]) -> float:
    """Symmetric mean distance to the nearest point of the other cloud, in the clouds' units."""
    if len(a) == 0 or len(b) == 0:
        raise ValueError(f"chamfer needs points in both clouds, got {len(a)} and {len(b)}")
    distance = torch.cat([torch.cdist(chunk, b) for chunk in a.split(2048)])
    return (distance.amin(1).mean() + distance.amin(0).mean()).item() / 2


def variation(views: Float[Tensor, "b h w 3"]) -> float:
    """Mean over all pairs of views of the root mean square of their difference."""
    flat = views.reshape(len(views), -1)
    rms = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist") / math.sqrt(flat.shape[1])
    return (rms.sum() / (len(flat) * (len(flat) - 1))).item()


def count_fronts(scores: Float[Tensor, "n"]) -> int:
    """Separate ranges of azimuth that show a front, from scores in [0, 1] at n azimuths evenly around the circle."""
    smooth = (scores.roll(1) + 2 * scores + scores.roll(-1)) / 4
    smooth = smooth.roll(-int(smooth.argmin())).tolist()  # no range is cut where the list begins
    ranges = [list(run) for inside, run in groupby(smooth, lambda score: score >= LOW) if inside]
    return sum(math.ceil(len(run) * 360 / len(scores) / WIDEST) for run in ranges if max(run) > HIGH)


def turn(points: Float[Tensor, "n 3"], degrees: float) -> Float[Tensor, "n 3"]:
    """Points turned counter-clockwise about the vertical axis."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return points @ torch.tensor([[c, s, 0], [-s, c, 0], [0, 0, 1]], dtype=points.dtype, device=points.device)


@torch.no_grad()
def seen_points(render: RenderFn, n: int = 4000) -> Float[Tensor, "n 3"]:
    """At most n points of the surface that a scene shows, in world units: the depth of pixels with alpha > 1/2, unprojected.

    Twelve azimuths at elevations 15 and -15 and one view from above. For Gaussians this is the surface one sees, while the
    centres of those inside it are free to be anywhere.
    """
    points, _ = seen(render, RESOLUTION)
    return points[torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:n]]


@lru_cache(maxsize=8)
def _layers(kind: str) -> Layers:
    return trace(Toy(kind), ring(TURNS), RESOLUTION)


def true_views(kind: str, colour: str) -> Images:
    """The truth from the azimuths of the candidate's 24 views, over white."""
    return _layers(kind).rgb(torch.tensor(colour_rgb(colour)), torch.ones(3))[::TURNS // VIEWS]


@torch.no_grad()
def truth(render: RenderFn, kind: str, colour: str, points: Float[Tensor, "n 3"] | None = None) -> Truth:
    """Measure a candidate that should be a ``colour`` ``kind``.

    ``render``: a scene's bound ``render``, or anything called like it. ``points``: places of its surface for the
    Chamfer distance (for Gaussians :func:`seen_points`); without them ``chamfer`` is None. The first time a
    kind is asked for, its 72 views are traced (some 5 s on a CPU core); after that it costs the 24 renderings.
    ``ValueError`` for a kind or colour the toybox does not have.
    """
    main = torch.tensor(colour_rgb(colour))
    true = _layers(Toy(kind).kind)
    shown = render(ring(VIEWS), RESOLUTION, torch.ones(3))
    rgb, alpha = shown.rgb.detach().cpu().float().clamp(0, 1), shown.alpha.detach().cpu().float()
    true_rgb, true_mask = true.rgb(main, torch.ones(3)), true.alpha[..., 0] > 0.5
    mine, mask = rgb[::2], alpha[::2, :, :, 0] > 0.5
    at = torch.arange(len(mine)) * (TURNS // len(mine))
    found = []
    for step in range(TURNS):
        index = (at + step) % TURNS
        found.append((iou(mask, true_mask[index]).mean().item(), psnr(mine, true_rgb[index])))
    best = max(range(TURNS), key=lambda i: found[i][0] + found[i][1] / 30)
    degrees = best * 360 / TURNS

    distance = None
    if points is not None and len(points):
        surface = Toy(kind).surface_points(2000, torch.Generator().manual_seed(0))
        distance = chamfer(turn(points.detach().cpu().float(), degrees), surface)

    kinds, colours, front = Judge.load()(rgb.permute(0, 3, 1, 2).contiguous())
    named = [list(names)[y.log_softmax(-1).mean(0).argmax()] for names, y in ((KINDS, kinds), (COLOURS, colours))]
    scores = front.sigmoid()
    ratio = variation(mine) / variation(true_rgb[(at + best) % TURNS])
    return Truth(*found[best], distance, *named, named[0] == kind, named[1] == colour, ratio, count_fronts(scores),
                 degrees, tuple(scores.tolist()))
