"""Where a candidate stands: the turn, shift and scale under which it is most like the truth. Nobody promised it a frame.

A candidate is taken to be the truth after ``p -> scale * R(-turn_deg) p + shift``, R(a) a counter-clockwise turn about the
vertical axis. Moving a camera by the same map undoes it exactly, so what is measured in the end are views of the candidate
itself, rendered by cameras that stand to it as the truth's cameras stand to the truth: nothing is resampled.

1. **Look.** 12 views from all around, in a field of view of 52 degrees so that a larger object is seen whole.
2. **Guess.** For each of 72 turns the silhouettes give scale and shift in closed form: the scale is the root of the ratio of
   their areas; a shift d moves the centroid at azimuth a by (-sin a dx + cos a dy) to the right and by cos e dz - sin e (cos a
   dx + sin a dy) upwards (e the elevation), which is least squares for d. The views are warped accordingly, and the turn with
   the greatest ``IoU + PSNR / 30`` counts.
3. **Refine.** Gauss-Newton steps: to first order the views differ from the truth's by five unknowns (turn, shift, scale) times
   the derivatives of the truth's views. Each step renders 12 views again and stays only if IoU + PSNR / 30 grew.
4. **Ask again.** A part that is too long moves centroids, and beside its place a nearly round object is much the same at every
   turn. So all turns are tried once more at the scale and shift that were found, and where another is better it is refined too.
"""
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from dreamlab.cameras import Cameras, ring
from dreamlab.checks import finite
from dreamlab.toybox.judge import RESOLUTION
from dreamlab.toybox.objects import Toy, colour_rgb
from dreamlab.toybox.render import Layers, blur, trace
from dreamlab.types import Images, Render

VIEWS = 24  # aligned views of the candidate
TURNS = 72  # views of the truth, and so turns that are tried
LOOKS = 12  # views that are aligned with
WIDE_DEG = 52.0  # field of view of the first look
SHIFT, SCALE = 0.3, (0.75, 1.33)  # how far an object may be off: world units along each axis, and times
LEAST = 0.01  # share of the first look that silhouettes must cover; below it there is nothing
STEPS = 3  # of refinement, at most
LIMIT = torch.tensor([10.0, 0.1, 0.1, 0.1, 0.1])  # of a step: degrees, world units, log of the scale
LOW_PASS = 1.0  # standard deviation in pixels of the blur before derivatives are taken
FOV_DEG = 40.0  # of the protocol's cameras
FINITE = "give a scene that is finite, such as one from before it diverged"

RenderFn = Callable[[Cameras, int, Tensor], Render]  # (cameras, resolution, background (3,)) -> Render


@dataclass(frozen=True)
class Pose:
    """The candidate is the truth after ``p -> scale * R(-turn_deg) p + shift``: the truth seen from azimuth ``a + turn_deg`` is
    what the candidate shows at ``a``."""

    turn_deg: float = 0.0
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: float = 1.0

    def apply(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Points of the truth where the candidate has them."""
        return self.scale * turn(points, -self.turn_deg) + torch.tensor(self.shift).to(points)

    def undo(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Points of the candidate where the truth has them."""
        return turn(points - torch.tensor(self.shift).to(points), self.turn_deg) / self.scale

    def then(self, by: "Pose") -> "Pose":
        """A truth that is first moved by ``by`` and then by this; within the bounds, to 0.1 degrees and 0.001."""
        shift = self.apply(torch.tensor([by.shift]))[0].clamp(-SHIFT, SHIFT).tolist()
        scale = min(max(self.scale * by.scale, SCALE[0]), SCALE[1])
        return Pose(round((self.turn_deg + by.turn_deg) % 360, 1) % 360, tuple(round(x, 3) for x in shift), round(scale, 3))


def through(cameras: Cameras, map: Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n 3"]]) -> Cameras:
    """Cameras moved by a similarity that keeps the vertical: what they look at, moved likewise, looks the same."""
    place, target = map(cameras.positions), map(cameras.target)
    radius = place.norm(dim=1)
    return replace(cameras, azimuth_deg=torch.atan2(place[:, 1], place[:, 0]).rad2deg(), radius=radius, target=target,
                   elevation_deg=(place[:, 2] / radius).asin().rad2deg())


@dataclass(frozen=True)
class Aligned:
    """A candidate's 24 views from all around, its pose undone, beside the truth's; the first of each shows the front.

    ``seen``, ``true``: over white. ``mask``, ``true_mask``: alpha > 1/2. ``empty``: there is nothing to be aligned.
    """

    kind: str
    colour: str
    pose: Pose
    seen: Images
    mask: Bool[Tensor, "b h w"]
    true: Images
    true_mask: Bool[Tensor, "b h w"]
    empty: bool = False


def turn(points: Float[Tensor, "n 3"], degrees: float) -> Float[Tensor, "n 3"]:
    """Points turned counter-clockwise about the vertical axis."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return points @ torch.tensor([[c, s, 0], [-s, c, 0], [0, 0, 1]], dtype=points.dtype, device=points.device)


def iou(a: Bool[Tensor, "*b h w"], b: Bool[Tensor, "*b h w"]) -> Float[Tensor, "*b"]:
    """Intersection over union of masks, 1 for two empty ones."""
    union = (a | b).sum((-2, -1))
    return torch.where(union > 0, (a & b).sum((-2, -1)) / union.clamp_min(1), 1.0)


def psnr(a: Float[Tensor, "*b h w 3"], b: Float[Tensor, "*b h w 3"]) -> float:
    """-10 log10 mean (a - b)^2 in dB, of pictures in [0, 1] (of 99 dB at most)."""
    return decibels((a - b).square().mean().item())


def decibels(error: float) -> float:
    """-10 log10 of a mean squared error, of 99 dB at most."""
    return -10 * math.log10(max(error, 10**-9.9))


def likeness(views: Float[Tensor, "b 4 h w"], true: Float[Tensor, "b 4 h w"]) -> float:
    """IoU + PSNR / 30 of views with their alpha as the fourth channel: what an alignment makes as great as it can."""
    error = (views[:, :3] - true[:, :3]).square().mean().item()
    return iou(views[:, 3] > 0.5, true[:, 3] > 0.5).mean().item() + decibels(error) / 30


def look(render: RenderFn, cameras: Cameras) -> Float[Tensor, "b 4 h w"]:
    """Views over white with their alpha. ValueError for values that are not finite."""
    shown = render(cameras, RESOLUTION, torch.ones(3))
    views = torch.cat([shown.rgb, shown.alpha], -1).detach().cpu().float()
    return finite(views, "the pictures to be measured have", FINITE).permute(0, 3, 1, 2).clamp(0, 1)


def warp(views: Float[Tensor, "b 4 h w"], cameras: Cameras, shift: Float[Tensor, "3"], scale: float,
         fov_deg: float) -> Float[Tensor, "b 4 h w"]:
    """Views of an object that was shifted and scaled, as of one in its place, in another field of view: each is a similarity
    of the picture about the object's own place, exact for what is as far away as that."""
    place = cameras.viewmats[:, :3, :3] @ shift + cameras.viewmats[:, :3, 3]
    zoom = scale * cameras.radius / place[:, 2]
    half, wide = math.tan(math.radians(fov_deg / 2)), (cameras.fov_deg[0].deg2rad() / 2).tan()
    centre = place[:, :2] / place[:, 2:] / wide
    affine = torch.cat([(zoom * half / wide)[:, None, None] * torch.eye(2), centre[:, :, None]], 2)
    empty = torch.tensor([1.0, 1, 1, 0])[:, None, None]
    grid = F.affine_grid(affine, list(views.shape), align_corners=False)
    return F.grid_sample(views - empty, grid, align_corners=False) + empty


def moments(alpha: Float[Tensor, "b h w"], fov_deg: float) -> tuple[Float[Tensor, "b"], Float[Tensor, "b 2"]]:
    """Areas of silhouettes and their centroids (right, down), on the plane at distance 1 before the camera."""
    n, half = alpha.shape[-1], math.tan(math.radians(fov_deg / 2))
    at = ((torch.arange(n) + 0.5) / n * 2 - 1) * half
    inside = (alpha > 0.5).float()
    pixels = inside.sum((1, 2))
    centre = torch.stack([(inside.sum(1) * at).sum(1), (inside.sum(2) * at).sum(1)], 1) / pixels.clamp_min(1)[:, None]
    return pixels * (2 * half / n) ** 2, centre


def guess(views: Float[Tensor, "b 4 h w"], cameras: Cameras, true: Float[Tensor, "t 4 h w"],
          known: Pose | None = None) -> Pose:
    """The best of 72 turns, by a first look at the candidate; scale and shift in closed form, or those of a ``known`` pose."""
    at = torch.arange(len(views)) * (TURNS // len(views))
    (area, centre), (true_area, true_centre) = moments(views[:, 3], WIDE_DEG), moments(true[:, 3], FOV_DEG)
    axes = cameras.viewmats[:, :2, :3] / cameras.radius[:, None, None]  # how a shift moves a centroid right and down
    present = area > 0
    solve = torch.linalg.pinv(axes[present].flatten(0, 1))
    found = []
    for step in range(TURNS):
        index = (at + step) % TURNS
        scale = (area.sum() / true_area[index].sum()).sqrt().clamp(*SCALE).item()
        shift = (solve @ (centre - scale * true_centre[index])[present].flatten()).clamp(-SHIFT, SHIFT)
        scale, shift = (known.scale, torch.tensor(known.shift)) if known else (scale, shift)
        pose = Pose(0.0, tuple(shift.tolist()), scale).then(Pose(step * 360 / TURNS))
        found.append((likeness(warp(views, cameras, shift, scale, FOV_DEG), true[index]), pose))
    return max(found, key=lambda pair: pair[0])[1]


def derivatives(true: Float[Tensor, "t 4 h w"], cameras: Cameras) -> Float[Tensor, "5 b 4 h w"]:
    """Of the truth's views at the cameras: by degrees of turn, by shift along x, y and z, and by the log of the scale."""
    every, h, still = TURNS // len(cameras), 0.02, torch.zeros(3)
    near = true[::every]
    turned = (true.roll(-1, 0) - true.roll(1, 0))[::every] * TURNS / 720
    moved = [warp(near, cameras, -h * e, 1.0, FOV_DEG) - warp(near, cameras, h * e, 1.0, FOV_DEG) for e in torch.eye(3)]
    scaled = warp(near, cameras, still, 1 - h, FOV_DEG) - warp(near, cameras, still, 1 + h, FOV_DEG)
    return torch.stack([turned, *(m / (2 * h) for m in (*moved, scaled))])


def refine(render: RenderFn, pose: Pose, true: Float[Tensor, "t 4 h w"]) -> tuple[float, Pose, Float[Tensor, "b 4 h w"]]:
    """After Gauss-Newton steps from a pose: the likeness that is reached, its pose, and the views from there."""
    cameras, index = ring(LOOKS), slice(None, None, TURNS // LOOKS)
    low = blur(true, LOW_PASS)
    slopes = derivatives(low, cameras).flatten(1)
    normal = slopes @ slopes.T
    views = look(render, through(cameras, pose.apply))
    value = likeness(views, true[index])
    for _ in range(STEPS):
        step = torch.linalg.solve(normal, slopes @ (blur(views, LOW_PASS) - low[index]).flatten())
        turned, *shift, grown = step.clamp(-LIMIT, LIMIT).tolist()
        if (other := pose.then(Pose(turned, tuple(shift), math.exp(grown)))) == pose:
            break
        seen = look(render, through(cameras, other.apply))
        if (reached := likeness(seen, true[index])) <= value:
            break
        pose, views, value = other, seen, reached
    return value, pose, views


@lru_cache(maxsize=8)
def layers(kind: str) -> Layers:
    """The truth from all 72 azimuths."""
    return trace(Toy(kind), ring(TURNS), RESOLUTION)


@torch.no_grad()
def align(render: RenderFn, kind: str, colour: str) -> Aligned:
    """Find a candidate's pose and its views from there; ``render`` is a scene's, or anything called like it.

    Costs 48 to 120 views of 64 x 64 pixels; the first time a kind is asked for, its 72 views are traced (some 5 s on a CPU
    core). ``ValueError`` for a kind or colour that the toybox does not have, and for views that are not finite.
    """
    main, known = torch.tensor(colour_rgb(colour)), layers(Toy(kind).kind)
    true = torch.cat([known.rgb(main, torch.ones(3)), known.alpha], -1).permute(0, 3, 1, 2)
    wide = ring(LOOKS, fov_deg=WIDE_DEG)
    first = look(render, wide)
    empty = (first[:, 3] > 0.5).float().mean().item() < LEAST
    value, pose, views = refine(render, Pose() if empty else guess(first, wide, true), true)
    other = pose if empty else guess(first, wide, true, pose)
    if abs((other.turn_deg - pose.turn_deg + 180) % 360 - 180) > 1.5 * 360 / TURNS:
        value, pose, views = max((value, pose, views), refine(render, other, true), key=lambda found: found[0])
    others = look(render, through(ring(VIEWS)[1::2], pose.apply))
    both = torch.stack([views, others], 1).flatten(0, 1)
    (seen, mask), (shown, true_mask) = ((x[:, :3].permute(0, 2, 3, 1), x[:, 3] > 0.5) for x in (both, true[::TURNS // VIEWS]))
    return Aligned(kind, colour, pose, seen, mask, shown, true_mask, empty)
