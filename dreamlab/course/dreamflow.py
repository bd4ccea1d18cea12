"""Notebook 13: DreamFlow's claims as differences of paired runs, and the exercises' checks."""
import csv
import json
from collections.abc import Callable
from dataclasses import dataclass

import torch

from dreamlab.course import DATA, judge
from dreamlab.course.vdm import Verdict, decide
from dreamlab.metrics.truth import chamfer
from dreamlab.schedules import Grid

Runs = dict[str, dict]  # "arm part" (or "rule budget") -> row, of one kind and seed (or of one seed)


@dataclass(frozen=True)
class Claim:
    """One statement of the paper, said of our parts, and the difference of paired runs that it says is above 0."""

    text: str
    d: Callable[[Runs], float]

    def decide(self, pairs: list[Runs]) -> Verdict:
        """The verdict of :func:`dreamlab.course.vdm.decide`."""
        return decide([float(self.d(runs)) for runs in pairs])


def grows(column: str, before: str, after: str) -> Callable[[Runs], float]:
    """d for: the column is greater after than before."""
    return lambda runs: float(runs[after][column]) - float(runs[before][column])


def falls(column: str, before: str, after: str) -> Callable[[Runs], float]:
    """d for: it is less."""
    return grows(column, after, before)


def nearer(column: str, before: str, after: str, right: float = 1.0) -> Callable[[Runs], float]:
    """d for: it is nearer to the right value after than before."""
    return lambda runs: abs(float(runs[before][column]) - right) - abs(float(runs[after][column]) - right)


def slope(values: list[float]) -> float:
    """Of the logarithm of a course over the run, from its beginning to its end, by least squares."""
    y = torch.tensor(values, dtype=torch.float64).clamp(min=1e-12).log()
    x = torch.linspace(-0.5, 0.5, len(y), dtype=torch.float64)
    return ((x * y).sum() / (x * x).sum()).item()


def unrest(values: list[float]) -> float:
    """Standard deviation of the logarithm of a course from one step to the next: how much it fluctuates."""
    return torch.tensor(values, dtype=torch.float64).clamp(min=1e-12).log().diff().std().item()


def detour(row: dict) -> float:
    """How long the way of four fixed views is, tenth by tenth of a run, over how far they get: 1 is straight."""
    return sum(row["moved"]) / row["net"]


# The whole list was written, and put under version control, before the results were opened.
MESH = {
    "Section 3.3: each part improves on the one before (from the points prior's shape)": [
        Claim("geometry: the surface comes nearer to the truth", falls("mesh_chamfer", "points start", "points geometry")),
        Claim("geometry: normals come nearer to the truth's", grows("mesh_cosine", "points start", "points geometry")),
        Claim("texture: colours come nearer to the truth's", grows("inside_psnr", "points geometry", "points texture")),
        Claim("texture: what is painted looks more real", falls("realism", "points geometry", "points texture")),
        Claim("refinement: sharpness comes nearer to the truth's",
              nearer("sharpness_ratio", "points texture", "points refine")),
        Claim("refinement: colours come nearer to the truth's", grows("inside_psnr", "points texture", "points refine")),
        Claim("refinement: it looks more real", falls("realism", "points texture", "points refine")),
        Claim("all parts: the object comes nearer to the truth's worst side (score)",
              grows("score", "points start", "points refine")),
    ],
    "The same from a radiance field": [
        Claim("geometry: the surface comes nearer to the truth", falls("mesh_chamfer", "field mesh", "field geometry")),
        Claim("geometry: normals come nearer to the truth's", grows("mesh_cosine", "field mesh", "field geometry")),
        Claim("texture: colours come nearer to the truth's", grows("inside_psnr", "field geometry", "field texture")),
        Claim("refinement: sharpness comes nearer to the truth's", nearer("sharpness_ratio", "field texture", "field refine")),
        Claim("the mesh is read more surely than the field: views right", grows("views_right", "field nerf", "field refine")),
    ],
    "Normal maps: what the prior must have seen": [
        Claim("the plain prior on normals moves the surface away from the truth",
              grows("mesh_chamfer", "points start", "plain geometry")),
        Claim("with the adapter the surface is nearer than without",
              falls("mesh_chamfer", "plain geometry", "points geometry")),
        Claim("with the adapter the surface is nearer than by coloured renders",
              falls("mesh_chamfer", "colour geometry", "points geometry")),
        Claim("with the adapter the normals are nearer than by coloured renders",
              grows("mesh_cosine", "colour geometry", "points geometry")),
    ],
}
FULL, HALF, QUARTER = "120", "60", "30"
TIME = {
    "Fig. 6: the course of a run": [
        Claim("APFO's loss falls over the run", lambda runs: -slope(runs[f"APFO {FULL}"]["course"]["loss"])),
        Claim("VSD's loss fluctuates more than APFO's", lambda runs: unrest(runs[f"VSD {FULL}"]["course"]["loss"])
              - unrest(runs[f"APFO {FULL}"]["course"]["loss"])),
        Claim("APFO's gradient falls over the run", lambda runs: -slope(runs[f"APFO {FULL}"]["course"]["norm"])),
        Claim("VSD's gradient fluctuates more than APFO's", lambda runs: unrest(runs[f"VSD {FULL}"]["course"]["norm"])
              - unrest(runs[f"APFO {FULL}"]["course"]["norm"])),
    ],
    "Fig. 16: content shift": [
        Claim("VSD's views take a longer way to where they end than APFO's",
              lambda runs: detour(runs[f"VSD {FULL}"]) - detour(runs[f"APFO {FULL}"])),
    ],
    "Table 2 and section 4: better, and 5 times faster": [
        Claim("APFO is nearer to the truth than VSD at the full budget: PSNR", grows("psnr", f"VSD {FULL}", f"APFO {FULL}")),
        Claim("... and its kind is read more surely", grows("p_kind", f"VSD {FULL}", f"APFO {FULL}")),
        Claim("... and its silhouette is nearer: IoU", grows("iou", f"VSD {FULL}", f"APFO {FULL}")),
        Claim("APFO with half of the budget is nearer to the truth than VSD with all of it: PSNR",
              grows("psnr", f"VSD {FULL}", f"APFO {HALF}")),
        Claim("APFO with a quarter of the budget is nearer to the truth than VSD with all of it: PSNR",
              grows("psnr", f"VSD {FULL}", f"APFO {QUARTER}")),
    ],
}


def mesh_rows() -> list[dict]:
    """The table of ``benchmarks.dreamflow``: a row for each part of each run."""
    return [*csv.DictReader((DATA / "dreamflow.csv").read_text().splitlines())]


def mesh_pairs(arms: set[str]) -> list[Runs]:
    """The same by kind and seed, where all of these arms are there."""
    found: dict[tuple, Runs] = {}
    for row in mesh_rows():
        found.setdefault((row["kind"], row["seed"]), {})[f"{row['arm']} {row['part']}"] = row
    return [runs for runs in found.values() if arms <= {name.split()[0] for name in runs}]


def time_pairs() -> list[Runs]:
    """The runs of ``benchmarks.apfo_field`` by seed."""
    found: dict[int, Runs] = {}
    for row in json.loads((DATA / "apfo_field.json").read_text())["rows"]:
        found.setdefault(row["seed"], {})[f"{row['rule']} {row['budget']}"] = row
    return [*found.values()]


def check_timestep(answer: Callable) -> str:
    """Exercise 1: ``timestep(step, start, end, points, views)``, the t (N,), whole numbers, of the steps (N,) of a run."""
    step, (start, end, points, views) = torch.arange(0, 600, 7), (881, 101, 120, 5)
    grid = Grid(start, end, points, views)
    right = torch.tensor([grid.bounds(int(i), grid.steps)[0] for i in step])

    def at(share: torch.Tensor) -> torch.Tensor:
        return (start + (end - start) * share).double().round()

    found = answer(step, start, end, points, views)
    return judge(found.double() if isinstance(found, torch.Tensor) else found, right.double(), {
        "t changes at every step here: all views of a timestep share it, so divide without a remainder.":
            at(step / views / points),
        "views steps share a t: it is the step, divided by views without a remainder, that counts the timesteps.":
            at(step / points),
        "this ends at end itself: the last t is one spacing above it.": at(step // views / (points - 1)),
        "this rises: it goes from start to end.": end + start - at(step // views / points),
        "this is the remainder: which view of a timestep it is, not which timestep.": at(step % views / points),
        "this starts at end.": (end + (end - start) * (step // views) / points).double().round(),
        "rounded down: take the nearest whole number.": (start + (end - start) * (step // views) / points).double().floor(),
    }, "the i-th of the timesteps, i = step // views, is i / points of the way from start to end.")


def check_chamfer(answer: Callable) -> str:
    """Exercise 3: ``chamfer(a, b)`` of points (N, 3) and (M, 3), a number in a tensor."""
    g = torch.Generator().manual_seed(132)
    a, b = torch.randn(60, 3, generator=g), 1.3 * torch.randn(40, 3, generator=g) + 0.2
    far = torch.cdist(a, b)
    there, back = far.amin(1), far.amin(0)
    return judge(answer(a, b), torch.tensor(chamfer(a, b)), {
        "only from a to b: what b has and a lacks costs nothing so.": there.mean(),
        "only from b to a: what a has and b lacks costs nothing so.": back.mean(),
        "this is the sum of both ways: their mean is wanted.": there.mean() + back.mean(),
        "these are squared distances.": (there.square().mean() + back.square().mean()) / 2,
        "all points together: each way has a mean of its own, else the larger cloud decides.": torch.cat([there, back]).mean(),
        "the mean over all pairs: only the nearest point of the other cloud counts.": far.mean(),
        "the farthest point alone (Hausdorff's distance): take means.": torch.maximum(there.max(), back.max()),
        "the farthest point in place of the nearest.": (far.amax(1).mean() + far.amax(0).mean()) / 2,
    }, "torch.cdist gives all distances (N, M). For each point the smallest, its mean over the points, and that both ways.")


def check_shift(answer: Callable) -> str:
    """Exercise 2: ``shift(views)`` of pictures (K, n) that follow each other, a number in a tensor: way over distance."""
    g = torch.Generator().manual_seed(133)
    views = torch.randn(7, 50, generator=g).cumsum(0)
    moved = views.diff(dim=0).square().mean(1).sqrt()
    net = (views[-1] - views[0]).square().mean().sqrt()
    return judge(answer(views), moved.sum() / net, {
        "upside down: the way is at least as long as the distance, so this is at least 1.": net / moved.sum(),
        "the mean step in place of all of them.": moved.mean() / net,
        "this measures from the first picture each time: the way goes from each picture to the next.":
            (views[1:] - views[0]).square().mean(1).sqrt().sum() / net,
        "differences of opposite sign cancel here: take each step's size first.":
            views.diff(dim=0).mean(1).abs().sum() / (views[-1] - views[0]).mean().abs(),
        "the last square root is missing, above and below.": moved.square().sum() / net**2,
        "this is the way alone: divide by how far the last picture is from the first.": moved.sum(),
    }, "root mean square of each picture minus the one before, summed; over the same of the last minus the first.")


def check_enough(answer: Callable) -> str:
    """Exercise 4: ``enough(budgets, quality, wanted)``, (N,), (N,) and a number: the budget that it takes, in a tensor."""
    g = torch.Generator().manual_seed(134)
    budgets = torch.tensor([20.0, 50.0, 90.0, 160.0])
    curves = 10 + 5 * torch.rand(8, 4, generator=g).cumsum(1)
    wanted = torch.cat([curves[:5, 1] + 0.3 * (curves[:5, 2] - curves[:5, 1]), curves[5:6, 0] - 1, curves[6:, 3] + 1])

    def over(one: Callable) -> torch.Tensor:
        return torch.stack([torch.as_tensor(float(one(budgets, *pair))) for pair in zip(curves, wanted, strict=True)])

    def first(budgets, quality, wanted):
        return budgets[quality >= wanted][0] if (quality >= wanted).any() else torch.tensor(torch.inf)

    def between(budgets, quality, wanted, beyond=torch.inf, least=None):
        if quality[-1] < wanted:
            return beyond
        i = int((quality >= wanted).nonzero()[0])
        if i == 0:
            return budgets[0] if least is None else least
        share = (wanted - quality[i - 1]) / (quality[i] - quality[i - 1])
        return budgets[i - 1] + share * (budgets[i] - budgets[i - 1])

    if answer(budgets, curves[0], wanted[0]) is None:
        found = None
    else:
        found = over(answer)
    return judge(found, over(between), {
        "this is the first budget that was tried and is good enough: go back on the line to the one before.": over(first),
        "where no budget is good enough, no number is known: say inf.": over(lambda *x: between(*x, beyond=budgets[-1])),
        "where the smallest budget is good enough already, that is the answer: below it nothing was tried.":
            over(lambda *x: between(*x, least=torch.tensor(0.0))),
        "the line is turned round: the share of the way is (wanted - before) / (after - before).":
            over(lambda b, q, w: between(b, q, q[1] + q[2] - w) if q[1] < w < q[2] else between(b, q, w)),
    }, "find the first budget whose quality is at least wanted, and interpolate between it and the one before.").rstrip()
