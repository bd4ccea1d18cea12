"""Notebook 16: GeoDream's claims as differences of paired runs, its lists of views drawn, and the exercises' checks."""
import csv
import math
from collections.abc import Callable

import torch
from torch import Tensor

from dreamlab.cameras import orbit
from dreamlab.course import DATA, judge
from dreamlab.course.dreammapping import Claim, Runs
from dreamlab.noise import seeded
from dreamlab.priors.zero123 import relative_pose
from dreamlab.stage import rate_at
from dreamlab.viewpoints import Near, Viewpoint

NEUS, LAST = "neus", "texture"  # the part at which all arms are compared, and the last of ``full``
PAIRED = ("duck", "car", "robot", "bear", "owl")  # the kinds of the ablations, seed 0
SEEDS = ("0", "1")  # of the comparisons; App. H has more
HUES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")  # of the references, in turn


def table() -> list[dict]:
    """The rows of ``benchmarks.geodream``, one for each part of each run."""
    return [*csv.DictReader((DATA / "geodream.csv").read_text().splitlines())]


def runs(arms: tuple[str, ...] = ()) -> list[dict[str, dict]]:
    """"arm, part" -> row, for each prompt and seed that has all these arms."""
    found: dict[tuple, dict[str, dict]] = {}
    for row in table():
        found.setdefault((row["kind"], row["colour"], row["seed"]), {})[f"{row['arm']}, {row['part']}"] = row
    return [some for some in found.values() if all(f"{arm}, {NEUS}" in some for arm in arms)]


def of(column: str, arm: str, part: str = NEUS) -> Callable[[Runs], float]:
    return lambda runs: float(runs[f"{arm}, {part}"][column])


def wrong_fronts(arm: str, part: str = NEUS) -> Callable[[Runs], float]:
    """How many fronts too many or too few."""
    return lambda runs: abs(of("fronts", arm, part)(runs) - 1)


def above(a: Callable[[Runs], float], b: Callable[[Runs], float], by: float = 0.0) -> Callable[[Runs], float]:
    return lambda runs: a(runs) - b(runs) - by


def unless_all_right(*arms: str) -> Callable[[list[Runs]], bool]:
    return lambda seeds: any(wrong_fronts(arm)(runs) for runs in seeds for arm in arms)


def fronts(text: str, better: str, worse: str) -> Claim:
    return Claim(text, above(wrong_fronts(worse), wrong_fronts(better)), unless_all_right(better, worse), "geodream")


def higher(text: str, column: str, better: str, worse: str, by: float = 0.0) -> Claim:
    return Claim(text, above(of(column, better), of(column, worse), by), table="geodream")


def pairs(claim: Claim) -> list[Runs]:
    """The runs that a claim can be asked of: all kinds and seeds where it asks ``full`` alone, else seed 0."""
    def answered(some: Runs) -> bool:
        try:
            claim.d(some)
        except KeyError:
            return False
        return True

    found = [(next(iter(some.values())), some) for some in runs() if answered(some)]
    seeds = SEEDS[:1] if {row["kind"] for row, _ in found} <= {*PAIRED} else SEEDS
    return [some for row, some in found if row["seed"] in seeds]


# Written and put under version control before the results were opened.
CLAIMS: dict[str, list[Claim]] = {
    "Fig. 4 (f): no 3D prior, a random volume": [
        fronts("with the prior the front count is nearer to 1", "full", "no prior"),
        higher("with the prior the shape is nearer: IoU", "iou", "full", "no prior"),
        higher("with the prior the picture is nearer: PSNR", "psnr", "full", "no prior")],
    "Fig. 4 (b): the volume moves, or is fixed": [
        higher("a volume that moves ends nearer: IoU", "iou", "full", "fixed prior"),
        higher("a volume that moves ends nearer: PSNR", "psnr", "full", "fixed prior"),
        Claim("refinement improves on its start: IoU", above(of("iou", "full"), of("iou", "full", "start")), table="geodream"),
        Claim("refinement improves on its start: PSNR", above(of("psnr", "full"), of("psnr", "full", "start")),
              table="geodream")],
    "Fig. 4 (c): a constant rate of the volume": [
        higher("Fig. 6's rates end nearer: IoU", "iou", "full", "constant rate"),
        Claim("at a constant rate the shape collapses: IoU more than 0.1 below its start",
              above(of("iou", "constant rate", "start"), of("iou", "constant rate"), 0.1), table="geodream")],
    "Fig. 4 (g): the texture of the views is kept, or begins anew": [
        higher("a texture anew is sharper (kept: over-smooth)", "sharpness_ratio", "texture anew", "full"),
        Claim("a texture anew is more real", above(of("realism", "full"), of("realism", "texture anew")), table="geodream"),
        fronts("a texture anew has its one front as often as one that is kept, or more often", "texture anew", "full")],
    "Fig. 4 (d): SDS in the place of VSD": [
        higher("SDS is more saturated", "saturation_ratio", "SDS", "full"),
        Claim("VSD is more real", above(of("realism", "SDS"), of("realism", "full")), table="geodream")],
    "Fig. 4 (h): the mesh after NeuS": [
        Claim("the mesh's picture is nearer: PSNR", above(of("psnr", "full", LAST), of("psnr", "full")), table="geodream"),
        Claim("the mesh's shape is nearer: IoU", above(of("iou", "full", LAST), of("iou", "full")), table="geodream"),
        Claim("the mesh's picture is sharper", above(of("sharpness_ratio", "full", LAST), of("sharpness_ratio", "full")),
              table="geodream")],
    "Fig. 4 (i): half the pixels": [
        higher("all pixels end nearer: PSNR", "psnr", "full", "half resolution"),
        Claim("half are competitive: PSNR at most 1 dB lower", above(of("psnr", "half resolution"), of("psnr", "full"), -1.0),
              table="geodream")],
    "App. F: viewpoint sampling, and where the reference comes from": [
        Claim("without views made of the back the volume is nearer: IoU of the start",
              above(of("iou", "sampled", "start"), of("iou", "not sampled", "start")), table="geodream"),
        fronts("without views made of the back the front count is nearer to 1", "sampled", "not sampled"),
        Claim("a 2D prior's front view serves: one front", above(lambda runs: 0.5, wrong_fronts("picture")), table="geodream"),
        Claim("so does App. F's own list: one front", above(lambda runs: 0.5, wrong_fronts("picture, sampled")),
              table="geodream")],
    "App. G: Perp-Neg; views that are wrong": [
        higher("Perp-Neg improves the shape: IoU (the paper: no significant improvement)", "iou", "Perp-Neg", "full"),
        higher("Perp-Neg improves the picture: PSNR (the paper: no significant improvement)", "psnr", "Perp-Neg", "full"),
        Claim("one wrong view of eight costs at most .05 of IoU", above(of("iou", "one wrong"), of("iou", "full"), -0.05),
              table="geodream"),
        Claim("with one wrong view there is one front", above(lambda runs: 0.5, wrong_fronts("one wrong")), table="geodream")],
    "App. L: other multi-view priors": [
        Claim("turned pictures (Zero123) reach IoU .9", above(of("iou", "picture"), lambda runs: 0.9), table="geodream"),
        higher("views of one joint prior (MVDream) end nearer than turned ones: IoU", "iou", "full", "picture")],
}


def spread(rows: list[dict], arm: str, column: str = "iou") -> float:
    """The standard deviation of a measure over the seeds of one prompt (App. H), at the part neus."""
    values = [float(row[column]) for row in rows if row["arm"] == arm and row["part"] == NEUS]
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))


UNTESTABLE = [
    ("Fig. 5", "styles that an Objaverse-trained prior does not know: every prior here has seen the toybox alone"),
    ("Table 2", "CLIP scores and user studies: there is one judge, and the ground truth besides"),
    ("App. K", "11 hours of a V100: no GPU was at hand"),
]


def globe(ax, views: list[Viewpoint], title: str) -> None:
    """A list of views on the sphere, seen from above with the front at the bottom of a polar axis: squares are references, each
    of a colour, dots what is made of the one of their colour. The thick ring is the equator; what is outside is below it."""
    ax.set_theta_offset(-math.pi / 2)
    for i, view in enumerate(views):
        own = view.of == i
        ax.plot(math.radians(view.azimuth_deg), 90 - view.elevation_deg, "s" if own else "o", ms=9 if own else 6, mec="k",
                mew=0.9 if own else 0.4, color=HUES[view.of % 4], zorder=4 if own else 3)
    ax.plot(torch.linspace(0, 2 * math.pi, 181), torch.full((181,), 90.0), color="0.45", lw=1.6, zorder=1)
    ax.set_ylim(0, 130)
    ax.set_xticks([math.radians(a) for a in range(0, 360, 90)], ["front", "left", "back", "right"])
    ax.set_yticks([30, 60, 120], ["60°", "", "-30°"], fontsize=7, color="0.35")
    ax.set_rlabel_position(22)
    ax.grid(lw=0.5, color="0.8")
    ax.set_title(title, pad=12)


def check_factor(answer: Callable) -> str:
    """Exercise 1: ``factor(step, first, last)`` of iterations (N,) of 20,000; judged for the volume and for the texture."""
    step = torch.tensor([0.0, 1.0, 1800, 3499, 3500, 3501, 5000, 8000, 10_000, 15_000, 19_999, 20_000])
    ramps = (0.1, 1.0), (1.0, 0.05)

    def both(one: Callable) -> Tensor | None:
        found = [one(step, *ramp) for ramp in ramps]
        return None if any(x is None for x in found) else torch.stack(found) if isinstance(found[0], Tensor) else found[0]

    def line(share: Callable, from_: float = 3500.0, after: bool = False, log: bool = False, swap: bool = False) -> Tensor:
        def one(step: Tensor, first: float, last: float) -> Tensor:
            first, last = (last, first) if swap else (first, last)
            x = share(step)
            way = first * (last / first) ** x if log else first + (last - first) * x
            return torch.where(step > from_ if after else step >= from_, way, torch.ones_like(step))
        return both(one)

    def library(step: Tensor, first: float, last: float) -> Tensor:
        knots = (0.0, 1.0), (0.175, 1.0), (0.175, first), (1.0, first + (last - first) * 0.825)
        return torch.tensor([rate_at(knots, x / 20_000) for x in step.tolist()])

    since = lambda step: (step - 3500) / 20_000  # noqa: E731
    return judge(both(answer), both(library), {
        "the line is 20,000 iterations long: it would end at 23,500, which the run does not reach.":
            line(lambda step: (step - 3500) / 16_500),
        "this counts the line from iteration 0: it begins at 3500.": line(lambda step: step / 20_000),
        "the line begins at 3500: this one begins at 0, and ends where it should.": line(lambda step: step / 23_500),
        "iteration 3500 itself is the first of the line.": line(since, after=True),
        "before 3500 the rate is the full one, a factor of 1, and not first.":
            line(lambda step: since(step).clamp(min=0), from_=-1.0),
        "before 3500 the rate is the full one: this line goes on to the left.": line(since, from_=-1.0),
        "first and last are swapped.": line(since, swap=True),
        "this is a line in the logarithm: here the rate itself goes straight.": line(since, log=True),
        "this is the share of the line that is over: the factor goes from first to last with it.":
            both(lambda step, first, last: torch.where(step >= 3500, since(step), 1.0)),
    }, "1 before 3500; from there first + (last - first) * (step - 3500) / 20,000.")


def check_near(answer: Callable) -> str:
    """Exercise 2: ``near(u, azimuth_deg, elevation_deg)``, (n, 2) in degrees; u (n, 2) in [0, 1), and the reference."""
    n, height = 40, 10.0
    g = seeded(162)
    u = [torch.rand(n, 2, generator=g) for _ in range(3)]
    listed = Near(n, height)(seeded(162))[4:]
    centres = (0.0, 90.0, 270.0)

    def every(one: Callable) -> Tensor | None:
        found = [one(*x) for x in zip(u, centres, (height,) * 3, strict=True)]
        return None if any(x is None for x in found) else torch.cat(found) if isinstance(found[0], Tensor) else found[0]

    def drawn(a: float, b: float, shift: float = 0.5, wrap: bool = True, up: float = 1.0) -> Tensor:
        def one(u: Tensor, azimuth_deg: float, elevation_deg: float) -> Tensor:
            azimuth = azimuth_deg + a * (u[:, 0] - shift)
            return torch.stack([azimuth % 360 if wrap else azimuth, up * elevation_deg + b * (u[:, 1] - shift)], 1)
        return every(one)

    right = torch.tensor([[view.azimuth_deg, view.elevation_deg] for view in listed])
    return judge(every(answer), right, {
        "an azimuth lies in [0, 360): take the remainder.": drawn(90.0, 60.0, wrap=False),
        "less than 45 and 30 degrees *either way*: the ranges are 90 and 60 wide.": drawn(45.0, 30.0),
        "this goes up to 90 and 60 degrees away: half of that either way.": drawn(180.0, 120.0),
        "u is from 0 to 1: this goes one way only, to the left and up.": drawn(90.0, 60.0, shift=0.0),
        "one way only, and half as wide as both ways together.": drawn(45.0, 30.0, shift=0.0),
        "45 is the azimuth's range, and 30 the elevation's.": drawn(60.0, 90.0),
        "the elevation is relative too: add that of the reference.": drawn(90.0, 60.0, up=0.0),
        "azimuth first, then elevation.": right.flip(1),
    }, "2 * u - 1 is in [-1, 1); times 45 and 30, plus where the reference stands; the azimuth's remainder by 360.")


def check_pose(answer: Callable) -> str:
    """Exercise 3: ``pose(cameras, seen)``, Zero123's four numbers (n, 4) of cameras beside the one that took the picture."""
    g = seeded(163)
    azimuth, elevation, radius = (a * torch.rand(12, generator=g) + b for a, b in ((360, 0), (60, -20), (1, 2)))
    cameras, seen = orbit(azimuth, elevation, radius), orbit(75.0, 12.0, 2.3)
    right = relative_pose(cameras, seen)
    up, turn = (cameras.elevation_deg - seen.elevation_deg).deg2rad(), (cameras.azimuth_deg - seen.azimuth_deg).deg2rad()

    def four(*numbers: Tensor) -> Tensor:
        return torch.stack(numbers, -1)

    far = right[:, 3]
    return judge(answer(cameras, seen), right, {
        "up is negative: the first number is an angle from the vertical, which falls as a camera goes up.":
            four(up, *right[:, 1:].T),
        "radians are wanted.": four(-up.rad2deg(), turn.rad2deg().sin(), turn.rad2deg().cos(), far),
        "the first number is in radians too.": four(-up.rad2deg(), *right[:, 1:].T),
        "the turn is the other way: anticlockwise from above is positive, from the picture to the camera.":
            four(-up, -turn.sin(), turn.cos(), far),
        "everything is turned round: the camera minus the picture's, not the picture's minus the camera.":
            four(up, -turn.sin(), turn.cos(), -far),
        "the sine comes first.": four(-up, turn.cos(), turn.sin(), far),
        "this is the azimuth itself: the pose is relative to where the picture was taken.":
            four(-up, cameras.azimuth_deg.deg2rad().sin(), cameras.azimuth_deg.deg2rad().cos(), far),
        "the elevation is relative too.": four(-cameras.elevation_deg.deg2rad(), *right[:, 1:].T),
        "the last number is a difference, not a ratio.": four(*right[:, :3].T, cameras.radius / seen.radius),
        "the last number is relative too: how much farther.": four(*right[:, :3].T, cameras.radius),
    }, "minus the difference of elevations, sine and cosine of that of azimuths (all in radians), that of radii.")
