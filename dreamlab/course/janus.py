"""Notebook 09: the sweep on the Janus problem, paired by seed, its claims, and the exercises' checks."""
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dreamlab.cameras import orbit
from dreamlab.course import judge, rows, stored_sheet
from dreamlab.course.dreammapping import Claim, more, plain, righter, unless_all_have_one_front
from dreamlab.course.vdm import by_seed
from dreamlab.metrics.truth import VIEWS, count_fronts
from dreamlab.priors.mixture import GaussianMixturePrior
from dreamlab.prompts import Prompt, ViewPrompts

STARTS, WORDS = ("ball", "points"), ("no words", "words", "Perp-Neg")
METHODS = [f"{start}, {words}" for start in STARTS for words in WORDS]
SHOWN = (0, 2, 4)  # of a run's eight views, those on the sheet: front, left side, back


def runs() -> list[dict[str, dict]]:
    """The rows of ``sweeps/janus.toml``: a dictionary method -> row for each seed that has all six methods."""
    return by_seed([row | {"variant": row["method"]} for row in rows("janus")], METHODS)


def claims() -> list[Claim]:
    """What words and Perp-Neg change within each start, and what the points change under each wording."""
    fronts, ratio, overlap, db = map(plain, ("fronts", "view_ratio", "iou", "psnr"))

    def better(a: str, b: str, who: str, start: str) -> list[Claim]:
        telling = unless_all_have_one_front(a, b)
        return [Claim(f"{start}: {who} front count nearer to 1", righter(fronts, a, b, 1.0), telling, "janus"),
                Claim(f"{start}: {who} view ratio nearer to 1", righter(ratio, a, b, 1.0), table="janus"),
                Claim(f"{start}: {who} higher IoU", more(overlap, a, b), table="janus")]

    found = []
    for start in STARTS:
        none, words, perp = (f"{start}, {word}" for word in WORDS)
        for a, b, who in ((words, none, "words give"), (perp, words, "Perp-Neg gives, over words,")):
            found += [*better(a, b, who, start), Claim(f"{start}: {who} higher PSNR", more(db, a, b), table="janus")]
    for word in WORDS:
        found += better(f"points, {word}", f"ball, {word}", "points give", word)
    return found


def pictures(side: int = 64) -> Float[Tensor, "methods seeds views side side 3"]:
    """The sheet beside them: a row a method, and for each seed the front, the left side and the back, in [0, 1]."""
    tiles = stored_sheet("janus").unfold(0, side, side).unfold(1, side, side).permute(0, 1, 3, 4, 2)
    return tiles.unflatten(1, (-1, len(SHOWN)))


def check_perp_neg(answer: Callable) -> str:
    """Exercise 2: ``perp_neg(e, e_i, w)``, Perp-Neg's direction for one view to stay away from; e, e_i (B, D), w (B,) <= 0."""
    g = torch.Generator().manual_seed(10)
    means = torch.randn(3, 2, 6, generator=g)  # of three conditions
    prior = GaussianMixturePrior(means.flatten(0, 1), 0.4, labels=torch.tensor([0, 0, 1, 1, 2, 2]))
    x_t, t = torch.randn(5, 6, generator=g), torch.randint(200, 800, (5,), generator=g)
    y, away, null = torch.tensor([0]), torch.tensor([1]), torch.tensor([2])
    w = -2 * torch.rand(5, generator=g) - 0.1
    moved, eps_null = prior.predict(x_t, t, Prompt(y, null, perp=((away, w),)))
    eps_y, eps_i = prior.eps(x_t, t, y, away)
    e, e_i, W = eps_y - eps_null, eps_i - eps_null, w[:, None]

    def along(a: Tensor, b: Tensor) -> Tensor:
        """The part of a that is parallel to b, row by row."""
        return b * ((a * b).sum(1, keepdim=True) / (b * b).sum(1, keepdim=True))

    across, dot = e_i - along(e_i, e), (e_i * e).sum(1, keepdim=True)
    return judge(answer(e, e_i, w), moved - eps_null, {
        "wrong sign: w is negative already, so the perpendicular part is added with it.": e - W * across,
        "this takes off all of e_i, the part along e included: guidance towards y is then lost. Take its perpendicular part.":
            e + W * e_i,
        "this takes off all of e_i, and the sign is wrong: w is negative already. Add w times the perpendicular part.":
            e - W * e_i,
        "this takes off the parallel part: what is wanted is the rest of e_i.": e + W * along(e_i, e),
        "the projection is the wrong way round: it is e_i that loses its part along e.": e + W * (e - along(e, e_i)),
        "the projection divides by the length of e; it is its square, <e, e>.":
            e + W * (e_i - e * dot / e.norm(dim=1, keepdim=True)),
        "the projection is not divided by <e, e>.": e + W * (e_i - e * dot),
        "the inner products run over the whole batch: take one for each row, with keepdim.":
            e + W * (e_i - e * (e_i * e).sum() / (e * e).sum()),
        "w is missing.": e + across,
        "this is what is added to e: add it.": W * across,
    }, "e + w (e_i - e <e_i, e> / <e, e>), with inner products row by row.")


def check_mix(answer: Callable) -> str:
    """Exercise 3: ``mix(front, side, back, away)``, the embedding (B, D) for cameras ``away`` (B,) degrees from the front."""
    g = torch.Generator().manual_seed(11)
    names = dict(zip(("front", "side", "back"), torch.randn(3, 1, 7, generator=g), strict=True))

    class Words:
        def embed(self, texts, negative=False):
            return torch.cat([names.get(text.split()[-2] if text else "", torch.zeros(1, 7)) for text in texts])

    away = torch.tensor([0.0, 10, 45, 70, 90, 100, 135, 150, 180])
    right = ViewPrompts(Words(), "a duck", interpolate=True)(orbit(away)).positive
    front, side, back = (names[name][0] for name in names)
    u, U = away / 90, away[:, None] / 180
    ahead = (u <= 1)[:, None]

    def mixed(f: Tensor, s: Tensor, b: Tensor) -> Tensor:
        return f[:, None] * front + s[:, None] * side + b[:, None] * back

    near, far = (1 - u).clamp(min=0), (u - 1).clamp(min=0)
    return judge(answer(front, side, back, away), right, {
        "front and back are swapped: away is 0 at the front.": mixed(far, 1 - near - far, near),
        "the weights run the wrong way within each half: at 0 degrees all is front.":
            torch.where(ahead, mixed(1 - near, near, 0 * u), mixed(0 * u, far, 1 - far)),
        "this goes from front to back and leaves the side out.": (1 - U) * front + U * back,
        "the second half counts on from 0: behind the side the share of back is away / 90 - 1.":
            mixed(near, 1 - near - u * (u > 1), u * (u > 1)),
        "this switches, as view words without interpolation do: mix the two neighbours.":
            torch.where((away < 45)[:, None], front, torch.where((away < 135)[:, None], side, back)),
        "shares below 0 are not cut off: clamp those of front and back at 0.": mixed(1 - u, 0 * u + 1, u - 1),
        "there are 90 degrees from one name to the next, not 180.":
            mixed((1 - u / 2).clamp(min=0), 1 - (1 - u / 2).clamp(min=0), 0 * u),
    }, "front has the weight max(0, 1 - away / 90), back max(0, away / 90 - 1), and side the rest.")


def check_ranges(answer: Callable) -> str:
    """Exercise 1: ``ranges(seen)``, separate runs of True around a circle; ``seen`` (n,): which azimuths show a front."""
    g = torch.Generator().manual_seed(12)
    circles = [torch.zeros(VIEWS, dtype=torch.bool)]
    for faces in (1, 1, 2, 2, 3, 3):  # faces of 30 to 90 degrees, apart by as much or more
        seen = torch.zeros(VIEWS, dtype=torch.bool)
        for k in range(faces):
            begin = k * VIEWS // faces
            seen[begin:begin + int(torch.randint(2, 7, (1,), generator=g))] = True
        circles.append(seen.roll(int(torch.randint(VIEWS, (1,), generator=g))))
    single = torch.zeros(VIEWS, dtype=torch.bool)
    single[:4] = True
    circles += [single.roll(-2), single.roll(9)]  # one face across the seam, one away from it
    found = [answer(seen.clone()) for seen in circles]
    if any(isinstance(x, Tensor) and x.numel() != 1 or isinstance(x, list | tuple | set | np.ndarray) for x in found):
        return "Not yet: this is a list of beginnings: count them. Hint: .sum() counts what is True."
    given = None if any(x is None for x in found) else torch.tensor([float(x) for x in found])
    rises = torch.tensor([float((seen[1:] & ~seen[:-1]).sum()) for seen in circles])
    starts = torch.tensor([float(seen[0]) for seen in circles])
    right = torch.tensor([float(count_fronts(seen.float())) for seen in circles])
    return judge(given, right, {
        "a front across the seam is counted twice: the last azimuth is the first one's neighbour.": rises + starts,
        "a front that begins at the first azimuth is missed: compare with the one before it around the circle.": rises,
        "every range has two edges, a beginning and an end: count only one kind.": 2 * right,
        "this counts the azimuths that show a front, not the ranges.": torch.tensor([float(s.sum()) for s in circles]),
        "this says whether there is any front; two ranges are two.": right.clamp(max=1),
    }, "a range begins where seen is True and its left neighbour is not; seen.roll(1) holds the left neighbours.")
