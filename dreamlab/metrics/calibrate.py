"""Are the metrics right where the answer is known? ``python -m dreamlab.metrics.calibrate`` finds out.

Every kind, in random frames and colours: as itself, shifted, scaled, blurred, noisy, with a halo, in another saturation,
rebuilt from Gaussians; and as what must not pass for it: with two to four fronts, evenly and unevenly spaced, with none, turned
on a lathe, with spots instead of a face, as a flat card, as a front that is seen from everywhere, as nothing. None of these
cameras, frames and seeds were in the judge's training. Writes ``docs/calibration.md`` and
``benchmarks/results/calibration.json``.
"""
import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from dreamlab.cameras import Cameras, orbit
from dreamlab.files import write_text
from dreamlab.metrics.align import Pose, RenderFn, layers, through
from dreamlab.metrics.appearance import eroded, inside, measure, references, saturation
from dreamlab.metrics.truth import seen_points, truth
from dreamlab.noise import seeded
from dreamlab.render.splat import splat
from dreamlab.toybox.dataset import FRONT_BIAS, biased_cameras
from dreamlab.toybox.fakes import Egg, card, fronts_at, spotted
from dreamlab.toybox.judge import RESOLUTION
from dreamlab.toybox.objects import COLOURS, KINDS, Body, Toy, colour_rgb, fronts, lathe
from dreamlab.toybox.render import Layers, blur, shade, trace, untextured
from dreamlab.toybox.training.judge import bare, random_fronts
from dreamlab.types import Images, Render

METRICS = {"score": "{:.1f}", "iou": "{:.2f}", "psnr": "{:.1f}", "chamfer": "{:.3f}", "kind_right": "{:.2f}",
           "colour_right": "{:.2f}", "view_ratio": "{:.2f}", "fronts": "{:.0f}", "turn_error": "{:.1f}",
           "shift_error": "{:.3f}", "scale_error": "{:.3f}",
           "saturation_share": "{:.2f}", "sharpness_ratio": "{:.2f}", "realism": "{:.2f}"}
# By how much a wrong object reads worse than the truth
WORSE = {"score": -1.0, "iou": -0.02, "psnr": -2.0, "chamfer": 0.008}
Range = tuple[float | int, float | int]


@dataclass(frozen=True)
class Case:
    """An object with known answers. ``right``: the range (low, high) of right readings of a metric. ``worse``: metrics
    that must instead read worse than for the truth of the same kind, frame and colour, by ``WORSE``. Where it is not
    known what a metric ought to read (the IoU of a Janus object depends on its kind), it stands in neither."""

    name: str
    what: str
    right: dict[str, Range] = field(hash=False)
    worse: tuple[str, ...] = ()


def worse(name: str, what: str, *by: str, **right: Range) -> Case:
    """A case that must not pass for the truth: the ``score`` says so, and the metrics ``by``."""
    return Case(name, what, right, ("score", *by))


YES, NO, CLOSE = (1, 1), (0, 0), (0, 0.05)
ALIKE = {"iou": (0.97, 1), "kind_right": YES, "colour_right": YES, "view_ratio": (0.95, 1.05), "fronts": (1, 1),
         "turn_error": (0, 2), "shift_error": (0, 0.02), "scale_error": (0, 0.02), "saturation_share": (0.97, 1.03)}
SAME = ALIKE | {"score": (25, 99), "psnr": (30, 99), "chamfer": CLOSE, "sharpness_ratio": (0.95, 1.05), "realism": (0, 1)}
JANUS = {"colour_right": YES, "realism": (1.5, 99)}
BARE = JANUS | {"fronts": NO}
LATHE = BARE | {"view_ratio": (-0.2, 0.2)}
CASES = (
    Case("truth", "the object itself", SAME),
    Case("shifted", "0.16 beside its place, in any direction", SAME),
    Case("scaled", "10 % larger or smaller", SAME),
    Case("moved", "turned, shifted by up to 0.2 along each axis, scaled by 0.85 to 1.15", SAME),
    Case("off-colour", "its main colour off by a few percent", SAME | {"score": (17, 99), "psnr": (20, 99)}),
    worse("blurred", "its views blurred, sigma 1 pixel", **ALIKE | {
        "view_ratio": (0.85, 1.05), "saturation_share": (0.9, 1.1), "sharpness_ratio": (0, 0.9), "realism": (0, 3)}),
    worse("noisy", "its views with noise of 0.05, which is coloured", **ALIKE | {
        "saturation_share": (0.97, 1.3), "sharpness_ratio": (1.2, 99), "realism": (0, 3)}),
    worse("halo", "in a soft fringe of any colour, 45 % opaque", **ALIKE | {
        "iou": (0.9, 1), "view_ratio": (0.75, 1.1), "turn_error": (0, 5), "shift_error": (0, 0.04), "scale_error": (0, 0.06),
        "sharpness_ratio": (0.9, 1.1), "realism": (0, 4)}),
    worse("over-saturated", "saturation times 1.25, cut off at 1", **ALIKE | {"view_ratio": (0.9, 1.2), "realism": (0, 3)}),
    worse("pale", "saturation times 0.7", **ALIKE | {"view_ratio": (0.7, 1.05), "realism": (0, 5)}),
    worse("Gaussians", "rebuilt from 3,000 Gaussians, 0.03 under its surface", **ALIKE | {
        "iou": (0.9, 1), "psnr": (18, 99), "chamfer": (0, 0.07), "view_ratio": (0.85, 1.15), "turn_error": (0, 5),
        "shift_error": (0, 0.04), "scale_error": (0, 0.06), "saturation_share": (0.9, 1.1), "realism": (0, 4)}),
    worse("two fronts", "its front sector twice", "psnr", **JANUS, fronts=(2, 2)),
    worse("three fronts", "its front sector three times", "psnr", **JANUS, fronts=(3, 3)),
    worse("four fronts", "its front sector four times", "psnr", **JANUS, fronts=(4, 4)),
    worse("fronts 0, 75", "two fronts, close together", "psnr", **JANUS, fronts=(2, 2)),
    worse("fronts 0, 90, 180", "three fronts, and a back at 270", "psnr", **JANUS, fronts=(3, 3)),
    worse("uneven fronts", "two to four at random, 75 degrees apart or more", "psnr", **JANUS),
    worse("Gaussians, two fronts", "the Gaussians of two fronts", "psnr", **JANUS, fronts=(2, 2)),
    worse("front everywhere", "a picture of its front that turns with the camera", "iou", "psnr", **JANUS, fronts=(2, 9),
          view_ratio=(-0.2, 0.2)),
    worse("card", "a flat card with its front on one side", "iou", "psnr", fronts=(1, 1), view_ratio=(-9, 0.7),
          realism=(1.5, 99)),
    worse("card, two fronts", "a flat card with its front on both", "iou", "psnr", fronts=(2, 2), view_ratio=(-9, 0.7),
          realism=(1.5, 99)),
    worse("back only", "its back on both sides", "psnr", **BARE),
    worse("blank", "no texture, all in the main colour", "psnr", iou=(0.95, 1), chamfer=CLOSE, colour_right=YES, fronts=NO,
          realism=(1, 99)),
    worse("lathe", "its back profile turned about the axis", "psnr", "chamfer", **LATHE),
    worse("lathe, beside", "the same 0.2 beside the axis", "psnr", **LATHE),
    worse("lathe, noisy", "the same with noise of 0.15 that differs from view to view", "psnr", **LATHE),
    worse("Gaussians, lathe", "the Gaussians of the lathe", "psnr", "chamfer", **LATHE | {"view_ratio": (-0.2, 0.3)}),
    *(worse(f"egg, {n} spots", f"an ellipsoid with {n} spots", "iou", "psnr", **BARE) for n in (4, 8, 16)),
    *(worse(f"back, {n} spots", f"its back on both sides with {n} spots", "psnr", fronts=NO, realism=(1.5, 99))
      for n in (4, 8, 16)),
    worse("empty", "nothing", "psnr", iou=NO, kind_right=NO, colour_right=NO, view_ratio=NO, fronts=NO, saturation_share=NO,
          sharpness_ratio=NO, realism=(1.5, 99)),
    Case("flat", "eight true pictures before backgrounds of any colour", {
        "kind_right": YES, "colour_right": YES, "saturation_share": (0.95, 1.05), "sharpness_ratio": (0.8, 1.25),
        "realism": (0.7, 1.4)}),
    Case("flat, pale", "the same, saturation times 0.7 inside", {"saturation_share": (0.95, 1.05)}),
    Case("flat, empty", "a background alone", {"saturation_share": NO, "sharpness_ratio": NO, "realism": (1.5, 99)}),
)


class Traced:
    """Layers (B, 6, 64, 64) of a body from any cameras: fixed rgb, main weight, alpha, light. What was traced once is kept."""

    def __init__(self, body: Body):
        self.body, self.known = body, {}

    def __call__(self, cameras: Cameras) -> Float[Tensor, "b 6 h w"]:
        exact = torch.cat([cameras.azimuth_deg[:, None] % 360, cameras.elevation_deg[:, None], cameras.fov_deg[:, None],
                           20 * cameras.radius[:, None], 20 * cameras.target], 1)
        keys = [tuple(row) for row in (exact * 50).round().int().tolist()]  # to 0.02 degrees and 0.001
        if new := [i for i, key in enumerate(keys) if key not in self.known]:
            some = Cameras(*(getattr(cameras, f.name)[new] for f in fields(cameras)))
            found = trace(self.body, some, RESOLUTION)
            light = untextured(found, some).main
            stack = torch.cat([found.fixed, found.main, found.alpha, light], -1).permute(0, 3, 1, 2)
            self.known |= {keys[i]: x for i, x in zip(new, stack, strict=True)}
        return torch.stack([self.known[key] for key in keys])


@dataclass
class Candidate:
    """Layers in a pose and a colour. ``fringe`` changes the body's premultiplied rgb and alpha, ``spoil`` the picture."""

    layers: Callable[[Cameras], Float[Tensor, "b 6 h w"]]
    pose: Pose
    colour: Tensor
    plain: bool = False
    fringe: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = lambda body, alpha: (body, alpha)
    spoil: Callable[[Images], Images] = lambda rgb: rgb

    def render(self, cameras: Cameras, resolution: int, background: Tensor) -> Render:
        fixed, main, alpha, light = self.layers(through(cameras, self.pose.undo)).split([3, 1, 1, 1], 1)
        tint = self.colour[:, None, None]
        body, alpha = self.fringe(light * tint if self.plain else fixed + main * tint, alpha)
        rgb = (body + (1 - alpha) * background[:, None, None]).permute(0, 2, 3, 1)
        return Render(self.spoil(rgb).clamp(0, 1), alpha.permute(0, 2, 3, 1))


def saturated(by: float, rgb: Images) -> Images:
    """Pictures with HSV's S times ``by``, 1 at most; white stays white."""
    high, low = rgb.amax(-1, keepdim=True), rgb.amin(-1, keepdim=True)
    most = high / (high - low).clamp_min(1e-6)
    return high - most.clamp_max(by) * (high - rgb)


def halo(colour: Tensor, body: Float[Tensor, "b 3 h w"], alpha: Float[Tensor, "b 1 h w"]) -> tuple[Tensor, Tensor]:
    """A soft fringe behind a body, three pixels wide and 45 % opaque."""
    behind = 0.45 * blur(F.max_pool2d(alpha, 7, 1, 3), 1.5) * (1 - alpha)
    return body + behind * colour[:, None, None], alpha + behind


def gaussians(toy: Toy, colour: Tensor, pose: Pose, generator: torch.Generator, n: int = 3000) -> RenderFn:
    """n round Gaussians 0.03 under the toy's surface, lit as the truth is on average."""
    p = toy.surface_points(n, generator)
    fixed, main = toy.paint(p)
    normal = toy.normal(p)
    colours = ((fixed + main[:, None] * colour) * (shade(normal, torch.zeros_like(p)) + 0.15)).clamp(0, 1)
    round_, size = torch.tensor([[1.0, 0, 0, 0]]).repeat(len(p), 1), torch.full((len(p), 3), 0.018)

    def render(cameras: Cameras, resolution: int, background: Tensor) -> Render:
        return splat(p - 0.03 * normal, round_, size, torch.full((len(p),), 0.9), colours, through(cameras, pose.undo),
                     resolution, background)
    return render


def sources(kind: str, generator: torch.Generator) -> tuple[dict[str, Callable[[Cameras], Tensor]], int]:
    """Layers of what is seen of a kind, by name of the case, and how many uneven fronts there are."""
    def at(*azimuths, turn=0.0):
        return Toy(kind, fronts_at([math.radians(a) for a in azimuths], turn))

    count = 2 + int(torch.randint(3, (1,), generator=generator))
    uneven, backs = random_fronts(count, generator), at(0, 180, turn=math.pi)
    radii = tuple((0.35 + 0.3 * torch.rand(3, generator=generator)).tolist())
    bodies = {"truth": Toy(kind), "two fronts": Toy(kind, fronts(2)), "three fronts": Toy(kind, fronts(3)),
              "four fronts": Toy(kind, fronts(4)), "fronts 0, 75": at(0, 75), "fronts 0, 90, 180": at(0, 90, 180),
              "uneven fronts": at(*uneven), "lathe": Toy(kind, lathe), "back only": backs}
    for n in (4, 8, 16):
        bodies[f"egg, {n} spots"] = spotted(Egg(radii=radii), n, generator)
        bodies[f"back, {n} spots"] = spotted(backs, n, generator, bare=False)
    found = {name: Traced(body) for name, body in bodies.items()}
    eye = orbit(0.0)
    front = found["truth"](eye)
    found["card"] = lambda cameras: card(front[0], bare(front[0]), eye, cameras, RESOLUTION)
    found["card, two fronts"] = lambda cameras: card(front[0], front[0], eye, cameras, RESOLUTION)
    found["front everywhere"] = lambda cameras: front.expand(len(cameras), -1, -1, -1)
    found["empty"] = lambda cameras: torch.zeros(len(cameras), 6, RESOLUTION, RESOLUTION)
    return found, count


def shown_points(body: Body) -> Float[Tensor, "n 3"]:
    """Points of the surface that a body shows, in its own frame."""
    def render(cameras: Cameras, resolution: int, background: Tensor) -> Render:
        found = trace(body, cameras, resolution)
        return Render(found.rgb(torch.zeros(3), background), found.alpha, found.depth)
    return seen_points(render)


def candidates(kind: str, colours: list[str], generator: torch.Generator, names: tuple[str, ...]) -> Iterator[tuple]:
    """For each named case and colour: (name, colour, render, points or None, pose or None, other known answers)."""
    known, count = sources(kind, generator)
    u, beside = torch.rand(5, generator=generator).tolist(), 0.4 * torch.rand(3, generator=generator) - 0.2
    way, off = F.normalize(torch.randn(3, generator=generator), dim=0), 0.03 * torch.randn(3, generator=generator)
    tint, frame = torch.rand(3, generator=generator), 360 * u[0]
    poses = {"shifted": Pose(frame, tuple((0.16 * way).tolist())), "scaled": Pose(frame, scale=1.1 if u[1] < 0.5 else 0.9),
             "moved": Pose(frame, tuple(beside.tolist()), 0.85 + 0.3 * u[2]), "lathe, beside": Pose(frame, (0.16, -0.12, 0.0))}

    def noise(by: float) -> Callable[[Images], Images]:
        return lambda x: x + by * torch.randn(x.shape, generator=generator)

    changes = {"blurred": lambda x: blur(x.permute(0, 3, 1, 2), 1.0).permute(0, 2, 3, 1), "noisy": noise(0.05),
               "lathe, noisy": noise(0.15), "over-saturated": partial(saturated, 1.25), "pale": partial(saturated, 0.7)}
    true = Layers(*(x[::3] for x in vars(layers(kind)).values()))
    interior = eroded(true.alpha[..., 0] > 0.5)
    points = {name: shown_points(body) for name, body in (("truth", Toy(kind)), ("lathe", Toy(kind, lathe)))
              if {name, "shifted" if name == "truth" else name} & set(names)}
    for name in names:
        pose, first, plain = poses.get(name, Pose(frame)), name.split(", noisy")[0].split(", beside")[0], torch.ones(3)
        for colour in colours:
            paint = torch.tensor(colour_rgb(colour))
            main = (paint + off).clamp(0, 1) if name == "off-colour" else paint
            if name.startswith("Gaussians"):
                toy = Toy(kind, {"two fronts": fronts(2), "lathe": lathe}.get(name.removeprefix("Gaussians, ")))
                render = gaussians(toy, main, pose, generator)
                shape = seen_points(render)
            else:
                render = Candidate(known.get(first, known["truth"]), pose, main, name == "blank",
                                   partial(halo, tint) if name == "halo" else Candidate.fringe,
                                   changes.get(name, Candidate.spoil)).render
                shape = points.get(first if first in known else "truth")
                shape = None if shape is None else pose.apply(shape)
            tinted = true.rgb(main, plain)
            tinted = changes[name](tinted) if name in ("over-saturated", "pale") else tinted
            share = inside(saturation(tinted), interior) / inside(saturation(true.rgb(paint, plain)), interior)
            yield name, colour, render, shape, pose, {"share": share} | ({"fronts": count} if name == "uneven fronts" else {})


def flat(kind: str, colour: str, generator: torch.Generator) -> Iterator[tuple[str, Images]]:
    """Pictures of the flat cases: (name, pictures)."""
    found = trace(Toy(kind), biased_cameras(8, FRONT_BIAS, generator), RESOLUTION)
    ground = torch.rand(8, 3, generator=generator)
    paint = torch.tensor(colour_rgb(colour))
    behind = ground[:, None, None]
    body = found.rgb(paint, torch.zeros(3)) / found.alpha.clamp_min(1e-6)
    yield "flat", found.rgb(paint, ground)
    yield "flat, pale", saturated(0.7, body) * found.alpha + (1 - found.alpha) * behind
    yield "flat, empty", behind.expand(8, RESOLUTION, RESOLUTION, 3)


def judge_reading(case: Case, found: dict, of_truth: dict) -> dict[str, bool]:
    """For each metric with a known answer, whether the reading is right."""
    right = {metric: low <= found[metric] <= high for metric, (low, high) in case.right.items()}
    return right | {metric: (found[metric] - of_truth[metric]) / WORSE[metric] >= 1 for metric in case.worse}


def calibrate(kinds=tuple(KINDS), frames: int = 1, colours: int = 2, seed: int = 3000,
              names: tuple[str, ...] = tuple(case.name for case in CASES)) -> list[dict]:
    """All readings: what was found for each case, kind, frame and colour, the errors of the pose, and which were ``right``."""
    cases = {case.name: case for case in CASES}
    palette, readings = list(COLOURS), []
    solid = tuple(name for name in names if not name.startswith("flat"))
    for kind, i in tqdm([(kind, i) for kind in kinds for i in range(frames)], desc="calibrating"):
        generator = seeded(seed, 8 * i + list(KINDS).index(kind))
        chosen = [palette[i] for i in torch.randperm(len(palette), generator=generator)[:colours].tolist()]
        of_truth = {}

        def keep(name, colour, found, right=None, kind=kind, of_truth=of_truth):
            if name == "truth":
                of_truth[colour] = found
            case = replace(cases[name], right=cases[name].right | (right or {}))
            readings.append(found | {"case": name, "asked": [kind, colour]}
                            | {"right": judge_reading(case, found, of_truth.get(colour, {}))})

        for name, colour, render, points, pose, more in candidates(kind, chosen, generator, solid):
            read = truth(render, kind, colour, points)
            found, off = read.asdict(), torch.tensor(pose.shift) - torch.tensor(read.shift)
            keep(name, colour, found | {"turn_error": abs((found["turn_deg"] - pose.turn_deg + 180) % 360 - 180),
                                        "shift_error": off.norm().item(), "scale_error": abs(found["scale"] / pose.scale - 1),
                                        "saturation_share": found["saturation_ratio"] / more["share"]},
                 {"fronts": (more["fronts"], more["fronts"])} if "fronts" in more else None)
        for colour in chosen if len(solid) < len(names) else ():
            prompt = f"a {colour} {kind}"
            real = references(prompt)
            for name, pictures in flat(kind, colour, generator):
                if name in names:
                    found = measure(pictures, prompt, real)
                    found |= {f"{x}_right": found[x] > 0.5 for x in ("kind", "colour")}
                    keep(name, colour, found | {"saturation_share": found["saturation_ratio"] / (0.7 if "pale" in name else 1)})
    return readings


def share_right(readings: list[dict], metric: str) -> tuple[int, int]:
    """Right readings of a metric, and readings of it whose answer is known."""
    known = [r["right"][metric] for r in readings if metric in r["right"]]
    return sum(known), len(known)


def margins(readings: list[dict]) -> dict[str, float]:
    """Case -> by how many dB, at the least, the truth of the same kind, frame and colour beats it in ``score``."""
    cheats, found, best = {case.name for case in CASES if "score" in case.worse}, {}, {}
    for r in readings:
        if r["case"] == "truth":
            best[tuple(r["asked"])] = r["score"]
        elif r["case"] in cheats:
            found[r["case"]] = min(found.get(r["case"], 99.0), best[tuple(r["asked"])] - r["score"])
    return found


def table(readings: list[dict]) -> str:
    """The calibration as a page of Markdown."""
    titles = [m.replace("_right", "").replace("_", " ") for m in METRICS]
    lines = ["| case | " + " | ".join(titles) + " |", "|---" * (len(METRICS) + 1) + "|"]
    for case in CASES:
        mine, row = [r for r in readings if r["case"] == case.name], [f"{case.name}: {case.what}"]
        for metric, form in METRICS.items():
            values = [float(r[metric]) for r in mine if r.get(metric) is not None]
            median = form.format(torch.tensor(values).median()) if values else ""
            good, known = share_right(mine, metric)
            row.append(f"**{100 * good / known:.0f} %** {median}" if known else f"({median})" if median else "")
        lines.append("| " + " | ".join(row) + " |")
    counts = [share_right(readings, metric) for metric in METRICS]
    lines.append("| all | " + " | ".join(f"**{100 * g / max(k, 1):.1f} %** of {k}" for g, k in counts) + " |")
    lines += ["", "What reading is right:", ""]
    return "\n".join(lines + [f"* {case.name}: {answers(case)}." for case in CASES])


def answers(case: Case) -> str:
    """The right readings of a case, in words."""
    words = [f"{metric} {low:g}" if low == high else f"{metric} in [{low:g}, {high:g}]"
             for metric, (low, high) in case.right.items() if not metric.endswith("right")]
    words += [f"{metric.removesuffix('_right')} {'right' if answer == YES else 'wrong'}"
              for metric, answer in case.right.items() if metric.endswith("right")]
    words += ["fronts as many as it has"] * (case.name == "uneven fronts")
    return ", ".join(words + [f"{metric} worse than the truth's by {abs(WORSE[metric]):g}" for metric in case.worse])


PAGE = """# Calibration of the metrics

Written by `python -m dreamlab.metrics.calibrate`; the metrics are defined in `dreamlab/metrics/truth.py`, `align.py` and
`appearance.py`. Each cell: in how many of {n} cases (8 kinds x {frames} random frame{s} x {colours} colours, seed {seed}) the
metric reads what it should, in bold, and its median. A cell in brackets has no answer known beforehand: a Janus object may have
any IoU, a lathe may still look like its kind. `turn error` (degrees), `shift error` (world units) and `scale error` (a share)
are those of the pose that was found; `saturation share` is the saturation ratio over the known one. The points behind `chamfer`
are those of `seen_points`, which never looks from below, so that a mug or a house reads 0.035 where a duck reads 0.02; compare
it within a kind.

The {n} cases of a row are {objects} objects in {colours} colours each, so they are not {n} independent trials. Judge,
thresholds and ranges of right readings were set with pilot runs on other seeds (1000, 2000, 5) in sight. Seed 4242 came next
and met the bar too; then a distilled snowman with too tall a hat was found 29 degrees off, the alignment was mended, and this
is a seed of its own again. Pictures of *flat* cases are measured by `appearance.measure`, all others by `truth`.

{table}

## The one number

`score` orders candidates. Least margin, in dB, by which the truth of the same kind, frame and colour beats what must not pass
for it: {margins}.

## Wrong readings

{wrong}
"""


def publish(readings: list[dict], out: Path, seed: int, frames: int, colours: int) -> None:
    """The page, and the readings as JSON, with the seconds of this process's CPU time."""
    wrong = [f"* {metric} of {' '.join(r['asked'][::-1])}, {r['case']}: {METRICS[metric].format(float(r[metric]))}"
             for r in readings for metric, ok in r["right"].items() if not ok]
    beaten = ", ".join(f"{name} {by:.1f}" for name, by in sorted(margins(readings).items(), key=lambda pair: pair[1]))
    page = PAGE.format(n=8 * frames * colours, objects=8 * frames, frames=frames, s="s" * (frames > 1),
                       colours=colours, seed=seed, table=table(readings), margins=beaten,
                       wrong="\n".join(wrong) or "None.")
    rows = [[r["case"], *r["asked"], *(None if r.get(m) is None else round(float(r[m]), 3) for m in METRICS)] for r in readings]
    record = {"seed": seed, "cpu_seconds": round(time.process_time()), "columns": ["case", "kind", "colour", *METRICS]}
    text = json.dumps(record | {"rows": rows}, separators=(",", ":")).replace("],[", "],\n[") + "\n"
    for path, content in ((out / "docs/calibration.md", page), (out / "benchmarks/results/calibration.json", text)):
        write_text(path, content)
        print("wrote", path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=1, help="random frames per kind")
    parser.add_argument("--colours", type=int, default=2, help="colours per frame")
    parser.add_argument("--seed", type=int, default=5353)
    parser.add_argument("--out", type=Path, default=Path("."), help="where docs/ and benchmarks/results/ are")
    args = parser.parse_args()
    size = {"seed": args.seed, "frames": args.frames, "colours": args.colours}
    publish(calibrate(**size), args.out, **size)


if __name__ == "__main__":
    main()
