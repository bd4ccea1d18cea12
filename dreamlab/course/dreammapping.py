"""Notebook 10: DreamMapping's claims about 3D as differences of paired runs, the demo's bars, and the exercises' checks."""
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamlab.cameras import orbit
from dreamlab.course import judge
from dreamlab.course.vdm import Verdict, decide
from dreamlab.stage import rate_at

Runs = dict[str, dict]  # method -> row, of one prompt and seed
CEILING = 0.98  # a probability whose mean is above this in both methods tells nothing
SHORT = {"holds": "holds", "does not hold: the opposite does": "opposite",  # a verdict's word, for tables
         "does not hold: no clear difference": "unclear", "not testable here": "ceiling"}


@dataclass(frozen=True)
class Claim:
    """One statement of the paper, said of our methods, and the difference of paired runs that it says is above 0.

    ``telling(seeds)`` is False where the measure is at its ceiling. ``table`` names the sweep that is asked."""

    text: str
    d: Callable[[Runs], float]
    telling: Callable[[list[Runs]], bool] = lambda seeds: True
    table: str = "dreammapping"

    def decide(self, seeds: list[Runs]) -> Verdict:
        """The verdict of :func:`dreamlab.course.vdm.decide` on runs paired by :func:`paired`."""
        return decide([float(self.d(runs)) for runs in seeds], telling=self.telling(seeds))


def log_of(column: str) -> Callable[[Runs, str], float]:
    return lambda runs, method: math.log(runs[method][column])


def plain(column: str) -> Callable[[Runs, str], float]:
    return lambda runs, method: float(runs[method][column])


sharp, saturated = log_of("sharpness_ratio"), plain("saturation_ratio")
unreal, kind, colour, psnr = plain("realism"), plain("kind"), plain("colour"), plain("psnr")
OURS = "VDM+DCA"


def more(value, a: str, b: str) -> Callable[[Runs], float]:
    """d for: a has more of it than b."""
    return lambda runs: value(runs, a) - value(runs, b)


def less(value, a: str, b: str) -> Callable[[Runs], float]:
    """d for: a has less of it than b."""
    return more(value, b, a)


def nearer(value, a: str, b: str, c: str) -> Callable[[Runs], float]:
    """d for: a is nearer to b than to c."""
    return lambda runs: abs(value(runs, a) - value(runs, c)) - abs(value(runs, a) - value(runs, b))


def righter(value, a: str, b: str, right: float) -> Callable[[Runs], float]:
    """d for: a is nearer to the right value than b."""
    return lambda runs: abs(value(runs, b) - right) - abs(value(runs, a) - right)


def other_fronts(runs: Runs, method: str) -> float:
    """How many fronts too many or too few."""
    return abs(runs[method]["fronts"] - 1.0)


def unless_at_ceiling(column: str, a: str, b: str) -> Callable[[list[Runs]], bool]:
    return lambda seeds: min(sum(runs[m][column] for runs in seeds) / len(seeds) for m in (a, b)) <= CEILING


def unless_all_have_one_front(a: str, b: str) -> Callable[[list[Runs]], bool]:
    return lambda seeds: any(other_fronts(runs, m) for runs in seeds for m in (a, b))


def clip(who: str, a: str, b: str, table: str = "dreammapping") -> list[Claim]:
    """A CLIP score that the paper says is higher for a than for b: the judge's probabilities of kind and colour play it."""
    return [Claim(f"{who}: {name}", more(value, a, b), unless_at_ceiling(name, a, b), table)
            for name, value in (("kind", kind), ("colour", colour))]


# The whole list was written, and put under version control, before the sweep's results were opened. Since then the word
# "righter" has become "nearer to the truth's", and six claims about time have gone: the sweep's seconds do not measure it.
CLAIMS = {
    "Table 2: CLIP scores, consistency of the views": [
        *clip("DreamMapping above its points prior (Shap-E)", "demo", "0 steps", "demo"),
        *clip("VDM+DCA above SDS on the same points (GaussianDreamer)", OURS, "SDS"),
        *clip("VDM+DCA above VSD on NeRF (ProlificDreamer)", OURS, "NeRF VSD"),
        Claim("VDM+DCA more often has one front than SDS", less(other_fronts, OURS, "SDS"),
              unless_all_have_one_front(OURS, "SDS")),
        Claim("VDM+DCA more often has one front than ISM", less(other_fronts, OURS, "ISM"),
              unless_all_have_one_front(OURS, "ISM")),
    ],
    "Table 3: 3D-FID, appearance": [
        Claim("VDM+DCA is more real than SDS (GaussianDreamer)", less(unreal, OURS, "SDS")),
        Claim("VDM+DCA is more real than ISM (LucidDreamer)", less(unreal, OURS, "ISM")),
        Claim("VDM+DCA is more real than VSD on NeRF", less(unreal, OURS, "NeRF VSD")),
        Claim("ISM is more real than SDS", less(unreal, "ISM", "SDS")),
        Claim("ISM is more real than VSD on NeRF", less(unreal, "ISM", "NeRF VSD")),
        Claim("SDS on points is more real than VSD on NeRF", less(unreal, "SDS", "NeRF VSD")),
        Claim("VSD is more real than SDS (the paper: both on NeRF)", less(unreal, "VSD", "SDS")),
        Claim("VDM+DCA is nearer to the truth than SDS: PSNR", more(psnr, OURS, "SDS")),
        Claim("VDM+DCA is nearer to the truth than ISM: PSNR", more(psnr, OURS, "ISM")),
    ],
    "Fig. 6: VDM and DCA against SDS, guidance 7.5": [
        Claim("SDS is over-smooth", lambda runs: -sharp(runs, "SDS")),
        Claim("VDM is sharper than SDS", more(sharp, "VDM", "SDS")),
        Claim("... and that is detail: VDM is more real", less(unreal, "VDM", "SDS")),
        Claim("VDM is more saturated than SDS", more(saturated, "VDM", "SDS")),
        Claim("VDM is noisy: sharper than true renders", lambda runs: sharp(runs, "VDM")),
        Claim("DCA takes saturation off VDM", less(saturated, OURS, "VDM")),
        Claim("DCA takes noise off VDM", less(sharp, OURS, "VDM")),
        Claim("DCA makes VDM more real", less(unreal, OURS, "VDM")),
        Claim("VDM+DCA is less saturated than SDS", less(saturated, OURS, "SDS")),
        Claim("VDM+DCA is sharper than SDS", more(sharp, OURS, "SDS")),
        Claim("VDM+DCA is sharper than ISM (Fig. 5: vague textures)", more(sharp, OURS, "ISM")),
    ],
    "Fig. 7: operators, without DCA": [
        Claim("nonlinear is more real than linear", less(unreal, "VDM", "VDM linear")),
        Claim("nonlinear's sharpness is nearer to the truth's than linear's", righter(sharp, "VDM", "VDM linear", 0.0)),
        Claim("linear is noisier (sharper) than nonlinear", more(sharp, "VDM linear", "VDM")),
        Claim("nonlinear is more real than noisy", less(unreal, "VDM", "VDM noisy")),
        Claim("nonlinear's sharpness is nearer to the truth's than noisy's", righter(sharp, "VDM", "VDM noisy", 0.0)),
    ],
    "Fig. 8: DCA's cut-off": [
        Claim("100 is nearer to no DCA than to 300: saturation", nearer(saturated, "VDM+DCA 100", "VDM", OURS)),
        Claim("100 is nearer to no DCA than to 300: sharpness", nearer(sharp, "VDM+DCA 100", "VDM", OURS)),
        Claim("100 is more saturated than 300", more(saturated, "VDM+DCA 100", OURS)),
        Claim("100 is noisier (sharper) than 300", more(sharp, "VDM+DCA 100", OURS)),
        Claim("500 is smoother than 300", less(sharp, "VDM+DCA 500", OURS)),
        Claim("500 is nearer to SDS than to 300: saturation", nearer(saturated, "VDM+DCA 500", "SDS", OURS)),
        Claim("500 is nearer to SDS than to 300: sharpness", nearer(sharp, "VDM+DCA 500", "SDS", OURS)),
        Claim("300 is more real than 100", less(unreal, OURS, "VDM+DCA 100")),
        Claim("300 is more real than 500", less(unreal, OURS, "VDM+DCA 500")),
        Claim("300's saturation is nearer to the truth's than 100's", righter(saturated, OURS, "VDM+DCA 100", 1.0)),
    ],
    "Fig. 9: NeRF": [
        Claim("VDM+DCA works on NeRF: P(kind) above 1/2", lambda runs: kind(runs, "NeRF VDM+DCA") - 0.5),
        Claim("VDM+DCA works on NeRF: P(colour) above 1/2", lambda runs: colour(runs, "NeRF VDM+DCA") - 0.5),
        Claim("on NeRF VDM+DCA is sharper than VSD", more(sharp, "NeRF VDM+DCA", "NeRF VSD")),
        Claim("on NeRF VDM+DCA is more real than VSD", less(unreal, "NeRF VDM+DCA", "NeRF VSD")),
    ],
}

UNTESTABLE = [
    ("Table 2", "CLIP scores above DreamFusion's and DreamGaussian's: no SDS on NeRF, nor SDS from a ball, is in the sweep"),
    ("Table 2", "the order of two CLIP backbones, which contradict one another on ProlificDreamer: there is one judge"),
    ("Table 2", "15 minutes, 10 hours, 6 seconds: of an A100, at other numbers of steps; the sweep's seconds are those of a "
                "machine that did other work besides"),
    ("Table 3", "3D-FIDs themselves, and DreamGaussian's: realism is no FID, and there is no such run"),
    ("Table 4", "the user study"),
    ("Fig. 5, 12", "fur, tail lights, toy bricks: toys have no such texture"),
    ("Fig. 9", "1.9 hours against 10, and that the time is saved by not passing through the U-Net: the same"),
]


def paired(rows: list[dict], methods: list[str]) -> list[Runs]:
    """Method -> row for each prompt and seed, in order of appearance. What lacks a method, or has a run that failed, is left
    out, so that all are paired."""
    found: dict[tuple, Runs] = {}
    for row in rows:
        if "error" not in row:
            found.setdefault((row["prompt"], row["seed"]), {})[row["method"]] = row
    return [runs for runs in found.values() if set(methods) <= set(runs)]


@dataclass(frozen=True)
class Bar:
    """What the demo has to reach. ``value(rows)`` must be at least, or with ``most`` at most, ``bar``."""

    text: str
    value: Callable[[list[dict]], float]
    bar: float
    most: bool = False

    def met(self, rows: list[dict]) -> bool:
        return self.value(rows) <= self.bar if self.most else self.value(rows) >= self.bar


def mean_of(column: str, right: Callable = float) -> Callable[[list[dict]], float]:
    return lambda rows: sum(right(row[column]) for row in rows) / len(rows)


BARS = [
    Bar("mean IoU", mean_of("iou"), 0.87),
    Bar("mean PSNR, dB", mean_of("psnr"), 21.0),
    Bar("colour right, share", mean_of("colour_right"), 0.95),
    Bar("one front, share", mean_of("fronts", lambda fronts: float(fronts == 1)), 0.8),
    Bar("longest run, minutes", lambda rows: max(row["seconds"] for row in rows) / 60, 2.0, most=True),
]


def check_half_width(answer: Callable) -> str:
    """Exercise 1: ``half_width(radius, fov_deg)``, how far to each side a camera sees at the origin; both (B,)."""
    g = torch.Generator().manual_seed(10)
    radius, fov = 1.0 + 5.0 * torch.rand(6, generator=g), 8.0 + 70.0 * torch.rand(6, generator=g)
    half = fov.deg2rad() / 2
    cameras = orbit(torch.zeros(6), 0.0, radius, fov)
    side = 100
    right = side / 2 / cameras.Ks(side)[:, 0, 0] * radius  # a point there falls on the picture's edge
    return judge(answer(radius, fov), right, {
        "the field of view is the full angle: half of it lies between the axis and the edge.": radius * fov.deg2rad().tan(),
        "torch.tan wants radians.": radius * (fov / 2).tan(),
        "this is the full width: half of it lies on each side.": 2 * right,
        "the sine is for the ball that just fits: a plane through the origin is cut at the tangent.": radius * half.sin(),
        "this divides by the tangent: the wider the angle, the more is seen.": radius / half.tan(),
        "the radius is missing: from further away the same angle covers more.": half.tan(),
        "this takes the angle for its tangent, which a wide camera does not forgive.": radius * half,
    }, "radius times the tangent of half the field of view, in radians.")


def check_rate(answer: Callable) -> str:
    """Exercise 2: ``rate(first, last, step, steps)``, Adam's rate on the log-linear way; judged over a whole run."""
    first, last, steps = 5.6e-4, 5.6e-6, 9
    share = torch.arange(steps, dtype=torch.float64) / (steps - 1)
    ways = torch.tensor([rate_at((first, last), x) for x in share.tolist()], dtype=torch.float64)
    short = torch.arange(steps, dtype=torch.float64) / steps

    def scaled(rates: Tensor) -> Tensor:
        """In units of the first rate, on a log scale: rates of 1e-6 differ by less than any tolerance."""
        return (rates / first).log()

    found = [answer(first, last, step, steps) for step in range(steps)]
    if any(value is None for value in found):
        return judge(None, ways, {}, "the logarithm moves evenly: log first + share * (log last - log first).")
    given = torch.tensor([float(value) for value in found], dtype=torch.float64)
    if not (given > 0).all():
        return f"Not yet: a rate is above 0, and yours reaches {given.min():.3g}. Is that its logarithm?"
    return judge(scaled(given), scaled(ways), {
        "this is linear: halfway it is still half the first rate, and a log-linear one a tenth.":
            scaled(first + share * (last - first)),
        "the last step does not reach the last rate: there are steps - 1 ways between the steps.":
            scaled(first * (last / first) ** short),
        "first and last are swapped.": scaled(ways.flip(0)),
        "this falls by last / first at every step: its share of the run is missing.":
            scaled(first * (last / first) ** (share * (steps - 1))),
        "this is half a cosine, the toy's curve.": scaled(last + (first - last) * (1 + (math.pi * share).cos()) / 2),
    }, "the logarithm moves evenly: log first + share * (log last - log first).")


def check_verdict(answer: Callable) -> str:
    """Exercise 3: ``verdict(d)`` of paired differences (n,): 1 where the claim holds, -1 where its opposite does, else 0."""
    cases = [[1.0, 1.1, 0.9, 1.2, -0.1], [-1.0, -1.1, -0.9, -1.2, 0.1], [1.0, 1.1, 0.9, -1.0, -1.2], [0.1, 0.1, 0.1, 0.1, -9.0],
             [0.1, 0.1, 0.1, 0.1, -0.3], [0.5, 0.4, 0.6, 0.2, 0.1], [0.9, 0.1, 1.6, 0.2, -0.2], [2.0, -0.1, 3.0, -0.2, 2.5],
             [-0.4, -2.0, 0.3, -0.1, -0.2], [3.0, 3.2, -0.1, -0.1, -0.1]]

    def outcome(verdict: Callable) -> Tensor | None:
        found = [verdict(torch.tensor(d, dtype=torch.float64)) for d in cases]
        return None if any(value is None for value in found) else torch.tensor([float(value) for value in found])

    def rule(votes: float, error: Callable, both: bool = True) -> Callable:
        def verdict(d: Tensor) -> int:
            for sign in (1, -1) if both else (1,):
                if (sign * d > 0).sum() >= votes * len(d) and sign * d.mean() > error(d):
                    return sign
            return 0
        return verdict

    words = {"holds": 1.0, "does not hold: the opposite does": -1.0, "does not hold: no clear difference": 0.0}
    se = lambda d: d.std() / math.sqrt(len(d))  # noqa: E731
    return judge(outcome(answer), torch.tensor([words[decide(d).word] for d in cases]), {
        "the signs are not counted: one large pair can carry the mean alone.": outcome(rule(0.0, se)),
        "the spread is not asked: four small differences and a large one against them say nothing.":
            outcome(rule(0.8, lambda d: -math.inf)),
        "the mean's sign is asked, its size is not: it must exceed its standard error.": outcome(rule(0.8, lambda d: 0.0)),
        "this compares with the standard deviation of one pair; the mean of n pairs is surer by sqrt(n).":
            outcome(rule(0.8, lambda d: d.std())),
        "the opposite is never found: turn the sign of d and ask again.": outcome(rule(0.8, se, both=False)),
        "three of five is no majority here: it takes four.": outcome(rule(0.6, se)),
        "five of five is more than the rule asks: four will do.": outcome(rule(1.0, se)),
        "wrong sign: d > 0 is what the claim says.": -outcome(rule(0.8, se)),
    }, "for either sign: at least 4 in 5 of that sign, and the mean beyond std / sqrt(n).")
