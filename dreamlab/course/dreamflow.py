"""Notebook 13: DreamFlow's claims as differences of paired runs, and the exercises' checks."""
import csv
import json
from collections.abc import Callable
from dataclasses import dataclass

import torch

from dreamlab.course import DATA
from dreamlab.course.vdm import Verdict, decide

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


def mesh_pairs(arms: set[str]) -> list[Runs]:
    """The table of ``benchmarks.dreamflow`` by kind and seed, where all of these arms are there."""
    found: dict[tuple, Runs] = {}
    for row in csv.DictReader((DATA / "dreamflow.csv").read_text().splitlines()):
        found.setdefault((row["kind"], row["seed"]), {})[f"{row['arm']} {row['part']}"] = row
    return [runs for runs in found.values() if arms <= {name.split()[0] for name in runs}]


def time_pairs() -> list[Runs]:
    """The runs of ``benchmarks.apfo_field`` by seed."""
    found: dict[int, Runs] = {}
    for row in json.loads((DATA / "apfo_field.json").read_text())["rows"]:
        found.setdefault(row["seed"], {})[f"{row['rule']} {row['budget']}"] = row
    return [*found.values()]
