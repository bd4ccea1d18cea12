"""Is :mod:`dreamlab.metrics.truth` right where the answer is known? ``python -m dreamlab.metrics.calibrate`` finds out.

Every kind, in random frames and in colours off the palette's by a few percent, as itself, with two and three fronts,
turned on a lathe, untextured, blurred, noisy, 10 % off in size, and rebuilt from Gaussians. None of these cameras and
seeds were in the judge's training. Writes ``docs/calibration.md`` and ``benchmarks/results/calibration.json``.
"""
import argparse
import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from dreamlab.cameras import orbit
from dreamlab.metrics.truth import VIEWS, Truth, seen_points, truth
from dreamlab.render.splat import splat
from dreamlab.toybox.judge import RESOLUTION
from dreamlab.toybox.objects import COLOURS, KINDS, Toy, colour_rgb, fronts, lathe
from dreamlab.toybox.render import Layers, blur, shade, trace
from dreamlab.types import Render

CIRCLE = torch.arange(VIEWS) * 360 / VIEWS
METRICS = {"iou": "{:.2f}", "psnr": "{:.1f}", "chamfer": "{:.3f}", "kind_right": "{:.2f}", "colour_right": "{:.2f}",
           "view_ratio": "{:.2f}", "fronts": "{:.0f}", "turn_error": "{:.1f}"}
WORSE = {"iou": -0.02, "psnr": -2.0, "chamfer": 0.008}  # how far from the truth's reading a wrong object must read


@dataclass(frozen=True)
class Case:
    """An object with known answers. ``right``: the range (low, high) of right readings of a metric. ``worse``: metrics
    that must instead read worse than for the truth of the same kind, frame and colour, by ``WORSE``. Where it is not
    known what a metric ought to read (the IoU of a Janus object depends on its kind), it stands in neither."""

    name: str
    what: str
    right: dict[str, tuple[float | int, float | int]] = field(hash=False)
    worse: tuple[str, ...] = ()


YES, CLOSE = (1, 1), (0, 0.05)
SAME = {"iou": (0.9, 1), "psnr": (20, 99), "chamfer": CLOSE, "kind_right": YES, "colour_right": YES,
        "view_ratio": (0.85, 1.15), "fronts": (1, 1), "turn_error": (0, 7.5)}
CASES = (
    Case("truth", "the object itself", SAME),
    Case("two fronts", "its front sector twice", {"colour_right": YES, "fronts": (2, 2)}, ("psnr",)),
    Case("three fronts", "its front sector three times", {"colour_right": YES, "fronts": (3, 3)}, ("psnr",)),
    Case("lathe", "its back profile turned about the axis",
         {"colour_right": YES, "view_ratio": (0, 0.2), "fronts": (0, 0)}, ("iou", "psnr", "chamfer")),
    Case("blank", "no texture, all in the main colour",
         {"iou": (0.9, 1), "chamfer": CLOSE, "colour_right": YES, "fronts": (0, 0)}, ("psnr",)),
    Case("blurred", "its views blurred, sigma 1 pixel", SAME | {"view_ratio": (0.7, 1)}),
    Case("noisy", "its views with noise of 0.05", SAME),
    Case("scaled", "10 % larger or smaller", SAME | {"iou": (0.75, 0.9)}, ("psnr", "chamfer")),
    Case("Gaussians", "rebuilt from 3,000 Gaussians, 0.03 under its surface",
         SAME | {"iou": (0.85, 1), "psnr": (17, 99), "chamfer": (0, 0.06)}),
    Case("Gaussians, two fronts", "the same with two fronts", {"colour_right": YES, "fronts": (2, 2)}, ("psnr",)),
    Case("Gaussians, lathe", "the same of the lathe",
         {"colour_right": YES, "view_ratio": (0, 0.3), "fronts": (0, 0)}, ("iou", "psnr", "chamfer")),
)


@dataclass
class Still:
    """A candidate of which the 24 views that :func:`truth` asks for are known already, as layers."""

    layers: Layers
    colour: Tensor
    blur: float = 0.0
    noise: float | Tensor = 0.0

    def render(self, cameras, resolution: int, background: Tensor) -> Render:
        rgb = self.layers.rgb(self.colour, background)
        if self.blur:
            rgb = blur(rgb.permute(0, 3, 1, 2), self.blur).permute(0, 2, 3, 1)
        return Render((rgb + self.noise).clamp(0, 1), self.layers.alpha)


def views(toy: Toy, frame_deg: float) -> Layers:
    """The 24 views of a toy turned by ``-frame_deg``. A lathe looks the same from everywhere and is traced once."""
    n = 1 if toy.warp is lathe else VIEWS
    layers = trace(toy, orbit(CIRCLE[:n] + frame_deg), RESOLUTION)
    return Layers(*(x.expand(VIEWS, -1, -1, -1) for x in vars(layers).values()))


def untextured(layers: Layers, frame_deg: float) -> Layers:
    """The same object with the main colour everywhere."""
    rays = orbit(CIRCLE + frame_deg).rays(RESOLUTION)[1]
    light = shade(layers.normal.reshape(-1, 3), rays.reshape(-1, 3)).view_as(layers.alpha)
    return replace(layers, fixed=torch.zeros_like(layers.fixed), main=light * layers.alpha)


def gaussians(toy: Toy, generator: torch.Generator, n: int = 3000) -> tuple[Tensor, ...]:
    """n round Gaussians 0.03 under the toy's surface, as :func:`splat` takes them; colours of the fixed and main layers."""
    p = toy.surface_points(n, generator)
    fixed, main = toy.paint(p)
    normal = toy.normal(p)
    light = shade(normal, torch.zeros_like(p)) + 0.15
    body = p - 0.03 * normal, torch.tensor([[1.0, 0, 0, 0]]).repeat(len(p), 1), torch.full((len(p), 3), 0.018)
    return *body, torch.full((len(p),), 0.9), (fixed * light).clamp(0, 1), (main[:, None] * light).clamp(0, 1).expand(-1, 3)


def candidates(kind: str, frame_deg: float, colours: list[Tensor], generator: torch.Generator, names: list[str]):
    """For each named case and colour: (name, index of the colour, candidate, its points in the candidate's frame)."""
    larger = torch.rand(1, generator=generator) < 0.5
    toys = {"truth": Toy(kind), "two fronts": Toy(kind, fronts(2)), "three fronts": Toy(kind, fronts(3)),
            "lathe": Toy(kind, lathe), "scaled": Toy(kind, scale=1.1 if larger else 0.9)}
    known = {}
    for name in names:
        shape = name.removeprefix("Gaussians").removeprefix(", ")
        toy = toys.get(shape or "truth", toys["truth"])
        if name.startswith("Gaussians"):
            *body, fixed, main = gaussians(toy, generator)

            def render(cameras, resolution, background, body=body, colour=fixed):
                cameras = replace(cameras, azimuth_deg=cameras.azimuth_deg + frame_deg)
                return splat(*body, colour, cameras, resolution, background)

            a, b = (render(orbit(CIRCLE), RESOLUTION, torch.zeros(3), colour=c) for c in (fixed, main))
            layers, points = Layers(a.rgb, b.rgb[..., :1], a.alpha, a.depth, a.normal), seen_points(render)
        else:
            if toy not in known:
                def render(cameras, resolution, background, toy=toy):
                    layers = trace(toy, replace(cameras, azimuth_deg=cameras.azimuth_deg + frame_deg), resolution)
                    return Render(layers.rgb(torch.zeros(3), background), layers.alpha, layers.depth)

                known[toy] = views(toy, frame_deg), seen_points(render)
            layers, points = known[toy]
            layers = untextured(layers, frame_deg) if name == "blank" else layers
        for i, colour in enumerate(colours):
            noise = 0.05 * (name == "noisy") * torch.randn(VIEWS, RESOLUTION, RESOLUTION, 3, generator=generator)
            yield name, i, Still(layers, colour, float(name == "blurred"), noise), points


def judge_reading(case: Case, found: dict, of_truth: dict) -> dict[str, bool]:
    """For each metric with a known answer, whether the reading is right."""
    right = {metric: low <= found[metric] <= high for metric, (low, high) in case.right.items()}
    return right | {metric: (found[metric] - of_truth[metric]) / WORSE[metric] >= 1 for metric in case.worse}


def calibrate(kinds=tuple(KINDS), frames: int = 3, colours: int = 3, seed: int = 3000,
              names: tuple[str, ...] = tuple(case.name for case in CASES)) -> list[dict]:
    """All readings: what :func:`truth` found for each case, kind, frame and colour, ``turn_error``, and ``right``."""
    cases = {case.name: case for case in CASES}
    generator = torch.Generator().manual_seed(seed)
    palette, readings = list(COLOURS), []
    for kind in tqdm(kinds, desc="calibrating"):
        for _ in range(frames):
            frame = 360 * torch.rand(1, generator=generator).item()
            chosen = [palette[i] for i in torch.randperm(len(palette), generator=generator)[:colours].tolist()]
            off = 0.03 * torch.randn(colours, 3, generator=generator)
            shades = list((torch.tensor([colour_rgb(c) for c in chosen]) + off).clamp(0, 1))
            of_truth = {}
            for name, i, still, points in candidates(kind, frame, shades, generator, list(names)):
                found: Truth = truth(still.render, kind, chosen[i], points)
                error = abs((found.turn_deg - frame + 180) % 360 - 180)
                reading = found.asdict() | {"case": name, "asked": [kind, chosen[i]], "frame_deg": frame,
                                            "turn_error": error}
                if name == "truth":
                    of_truth[i] = reading
                readings.append(reading | {"right": judge_reading(cases[name], reading, of_truth[i])})
    return readings


def share_right(readings: list[dict], metric: str) -> tuple[int, int]:
    """Right readings of a metric, and readings of it whose answer is known."""
    known = [r["right"][metric] for r in readings if metric in r["right"]]
    return sum(known), len(known)


def table(readings: list[dict]) -> str:
    """The calibration as a page of Markdown."""
    titles = [m.replace("_right", "").replace("_", " ") for m in METRICS]
    lines = ["| case | " + " | ".join(titles) + " |", "|---" * (len(METRICS) + 1) + "|"]
    by_case = {c: [r for r in readings if r["case"] == c.name] for c in CASES}
    for case, mine in by_case.items():
        row = [f"{case.name}: {case.what}"]
        for metric, form in METRICS.items():
            median = form.format(torch.tensor([float(r[metric]) for r in mine]).median()) if mine else ""
            good, known = share_right(mine, metric)
            row.append(f"**{100 * good / known:.0f} %** {median}" if known else f"({median})")
        lines.append("| " + " | ".join(row) + " |")
    counts = [share_right(readings, metric) for metric in METRICS]
    lines.append("| all | " + " | ".join(f"**{100 * g / max(k, 1):.1f} %** of {k}" for g, k in counts) + " |")
    lines += ["", "What reading is right:", ""]
    return "\n".join(lines + [f"* {case.name}: {answers(case)}." for case in CASES])


def answers(case: Case) -> str:
    """The right readings of a case, in words."""
    words = [f"{metric} {low:g}" if low == high else f"{metric} in [{low:g}, {high:g}]"
             for metric, (low, high) in case.right.items() if metric not in case.worse and not metric.endswith("right")]
    words += [metric.replace("_", " ") for metric, answer in case.right.items() if metric.endswith("right")]
    words += [f"{metric} worse than the truth's by {abs(WORSE[metric]):g}" for metric in case.worse]
    return ", ".join(words)


PAGE = """# Calibration of the truth metrics

Written by `python -m dreamlab.metrics.calibrate`; the metrics are defined in `dreamlab/metrics/truth.py`. Each cell: in
how many of {n} cases (8 kinds x {frames} random frames x {colours} colours, seed {seed}) the metric reads what it
should, in bold, and its median. A cell in brackets has no answer known beforehand: a Janus object may have any IoU, a
lathe may still look like its kind. `turn error` is the angle in degrees between the turn found and the true one. The
points behind `chamfer` are those of `seen_points`, which never looks from below, so that a mug or a house reads 0.035
where a duck reads 0.02; compare it within a kind.

The {n} cases of a row are {objects} renderings in {colours} colours each, so they are not {n} independent trials. The judge
and the counting of fronts were fixed before any calibration and never changed. The ranges of right readings were set
with pilot runs on other seeds (1000, 2000, 5) in sight: there the blurred views read a view ratio of 0.77 to 0.84, the
turn was up to 6.6 degrees off, Chamfer had a floor that depends on the kind, and Gaussians on the surface swelled it to an
IoU of 0.75, so that they were moved under it and then stood at 0.9; the ranges of these were widened to what they are below.

{table}

## Wrong readings

{wrong}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=3, help="random frames per kind")
    parser.add_argument("--colours", type=int, default=3, help="colours per frame")
    parser.add_argument("--seed", type=int, default=3000)
    parser.add_argument("--out", type=Path, default=Path("."), help="where docs/ and benchmarks/results/ are")
    args = parser.parse_args()
    start = time.time()
    readings = calibrate(frames=args.frames, colours=args.colours, seed=args.seed)
    wrong = [f"* {metric} of {' '.join(r['asked'][::-1])}, {r['case']}: {METRICS[metric].format(float(r[metric]))}"
             for r in readings for metric, ok in r["right"].items() if not ok]
    page = PAGE.format(n=8 * args.frames * args.colours, objects=8 * args.frames, frames=args.frames,
                       colours=args.colours, seed=args.seed, table=table(readings), wrong="\n".join(wrong) or "None.")
    for reading in readings:
        reading["front_scores"] = [round(score, 2) for score in reading["front_scores"]]
    record = {"seed": args.seed, "seconds": round(time.time() - start), "readings": readings}
    for path, text in ((args.out / "docs/calibration.md", page),
                       (args.out / "benchmarks/results/calibration.json", json.dumps(record))):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print("wrote", path)


if __name__ == "__main__":
    main()
