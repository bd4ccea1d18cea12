"""DreamFlow on the toybox, part by part: ``python -m benchmarks.dreamflow points field ...`` (notebook 13).

Every arm is run for the eight kinds, each in a colour of its own, and two seeds. After each part, and of the shape that a part
begins with, one row goes to ``dreamlab/course/data/dreamflow.csv``, with the tag of the part; a run whose rows are there is
not run again. Contact sheets of the last parts go to ``runs/dreamflow``.

* ``field``: the method dreamflow, from a radiance field. * ``points``: dreamflow-points.
* ``plain``, ``colour``: the geometry of dreamflow-points under the plain prior, on normals and on colours.
* ``true``: the same geometry from the true shape, to see what it spoils.
* ``montage``: no runs, but a picture of all kinds, from the sheets of points and field, to dreamflow.webp beside the table.
"""
import argparse
import csv
import io
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from pathlib import Path

import torch
from PIL import Image

from dreamlab import export
from dreamlab.cameras import ring
from dreamlab.course import DATA
from dreamlab.files import write_text
from dreamlab.mesh import lattice
from dreamlab.methods import METHODS
from dreamlab.noise import stream
from dreamlab.pipeline import Asked
from dreamlab.priors.diffusion import DiffusionPrior
from dreamlab.report import against_truth, save_image
from dreamlab.scenes import Scene, Tets
from dreamlab.scenes.tets import tight, within
from dreamlab.scenes.textured import texture_grid
from dreamlab.stage import run
from dreamlab.toybox.captions import caption, parse
from dreamlab.toybox.judge import Judge
from dreamlab.toybox.objects import COLOURS, KINDS, Toy
from dreamlab.toybox.render import render as render_truth

PROMPTS = [caption(kind, colour) for kind, colour in zip(KINDS, COLOURS, strict=True)]  # none of them held out
PLAIN = {"geometry.prior": "toybox"}
ARMS = {  # name -> method, changes, the last part
    "field": ("dreamflow", {}, None), "points": ("dreamflow-points", {}, None),
    "plain": ("dreamflow-points", PLAIN, "geometry"),
    "colour": ("dreamflow-points", PLAIN | {"geometry.look": "rgb"}, "geometry"),
    "true": ("dreamflow-points", {}, "geometry"),
}
COLUMNS = ("arm kind colour seed part seconds cpu_seconds steps views_right iou score psnr inside_psnr mesh_chamfer "
           "mesh_chamfer_unaligned mesh_cosine chamfer fronts view_ratio sharpness_ratio saturation_ratio realism kind_read "
           "colour_read kind_right colour_right watertight faces turn_deg scale tag date torch").split()


def true_shape(kind: str, cells: int = 32) -> Tets:
    """The truth as a scene to begin with, grey."""
    coarse = lattice(64, 0.95)
    sdf = lambda places: Toy(kind).sdf(places.view(-1, 3)).view(places.shape[:3])  # noqa: E731
    places = within(box := tight(sdf(coarse) < 0, coarse), cells + 1)
    generator = stream(0, "true shape")
    return Tets(sdf(places), box, texture_grid(4, 64, generator), 32, generator=generator)


@torch.no_grad()
def views_right(scene: Scene, prompt: str) -> float:
    """The share of 12 azimuths at which the judge reads the kind and the colour of the prompt."""
    kind, colour = parse(prompt)
    views = scene.render(ring(12), 64, torch.ones(3)).rgb.permute(0, 3, 1, 2).contiguous()
    kinds, colours, _ = Judge.load()(views)
    right = (kinds.argmax(1) == list(KINDS).index(kind)) & (colours.argmax(1) == list(COLOURS).index(colour))
    return right.float().mean().item()


def row(arm: str, asked: Asked, part: str, scene: Scene, seconds: float = 0.0, cpu: float = 0.0, steps: int = 0,
        tag: str = "") -> dict:
    """What was measured of a scene after a part."""
    kind, colour = parse(asked.prompt)
    found = against_truth(scene, asked.prompt) | {"views_right": views_right(scene, asked.prompt)}
    found = {k: round(v, 4) if isinstance(v, float) else v for k, v in found.items() if k in COLUMNS}
    return found | {"arm": arm, "kind": kind, "colour": colour, "seed": asked.seed, "part": part, "seconds": round(seconds, 1),
                    "cpu_seconds": round(cpu, 1), "steps": steps, "tag": tag, "date": str(date.today()),
                    "torch": torch.__version__}


def rows(arm: str, asked: Asked, until: str | None, priors: dict, sheets: Path, begun: Scene | None = None) -> Iterator[dict]:
    """An arm for one prompt and seed: the shape it begins with, if it has one, and what each part makes of it."""
    def timed(stage):
        begin, cpu = time.perf_counter(), time.process_time()
        for _ in run(stage, progress=False):
            pass
        return time.perf_counter() - begin, time.process_time() - cpu

    made: dict[str, Scene] = {}
    views = {"ground truth": render_truth(Toy(parse(asked.prompt)[0]), parse(asked.prompt)[1], ring(8), 96).rgb}
    for i, (name, part) in enumerate(asked.parts.items()):
        prior = priors.setdefault(part.prior, None) or DiffusionPrior.load(part.prior)
        priors[part.prior] = prior
        begin, cpu = time.perf_counter(), time.process_time()
        stage = part.build(asked.prompt, prior, asked.seed, lambda name: made[name], None if made else begun)
        begin, cpu = time.perf_counter() - begin, time.process_time() - cpu
        if hasattr(stage.scene, "surface") and (i == 0 or stage.scene.meshed and not made[next(reversed(made))].meshed):
            yield row(arm, asked, "start" if i == 0 else "mesh", stage.scene)
            views["start" if i == 0 else "mesh"] = stage.scene.render(ring(8), 96, torch.ones(3)).rgb.detach()
        seconds = [a + b for a, b in zip(timed(stage), (begin, cpu), strict=True)]
        made[name] = stage.scene
        with torch.no_grad():
            views[name] = stage.scene.render(ring(8), 96, torch.ones(3)).rgb
        yield row(arm, asked, name, stage.scene, *seconds, stage.steps, asked.tag(name))
        if name == until:
            break
    sheets.mkdir(parents=True, exist_ok=True)
    name = "-".join([arm, *parse(asked.prompt), str(asked.seed)])
    stage.scene.save(sheets / f"{name}.safetensors")
    save_image(export.contact_sheet(list(views.values()), list(views)), sheets / f"{name}.png")


def montage(sheets: Path) -> Image.Image:
    """Each kind from the front and from 45 degrees: the truth, what the parts of ``points`` make, and the field and the end of
    ``field``; cut out of the sheets of seed 0. A row a kind, 96 pixels a view."""
    shown = {"points": ["ground truth", "start", "geometry", "texture", "refine"], "field": ["nerf", "refine"]}
    every = {"points": ["ground truth", "start", "geometry", "texture", "refine"],
             "field": ["ground truth", "nerf", "mesh", "geometry", "texture", "refine"]}
    side, strip, gap = 96, 18, 4  # contact_sheet's
    whole = Image.new("RGB", (2 * side * sum(map(len, shown.values())), side * len(PROMPTS)), "white")
    for y, prompt in enumerate(PROMPTS):
        x = 0
        for arm, names in shown.items():
            sheet = Image.open(sheets / f"{'-'.join([arm, *parse(prompt)])}-0.png")
            for name in names:
                top = every[arm].index(name) * (side + strip + gap) + strip
                for view in (0, 1):
                    left = gap + view * (side + gap)
                    whole.paste(sheet.crop((left, top, left + side, top + side)), (x, y * side))
                    x += side
    return whole


def read(path: Path) -> list[dict]:
    """The rows of a table, none where there is no file."""
    return list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []


def write(path: Path, table: list[dict], arms: Iterable[str]) -> None:
    """The rows, sorted by arm, kind and seed, in the order in which they came."""
    order = {name: i for i, name in enumerate([*arms, *KINDS])}
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(sorted(table, key=lambda r: (order[r["arm"]], order[r["kind"]], int(r["seed"]))))
    write_text(path, text.getvalue())


def measure(arms: dict[str, tuple], chosen: list[str], kinds: list[str], seeds: list[int], out: Path, sheets: Path,
            begun: Callable[[str, Asked], Scene | None], rows: Callable = rows) -> None:
    """The chosen arms for these kinds and seeds, those that the table lacks. ``begun(arm, asked)``: what an arm's first part
    begins with, None for its own start. ``rows``: what makes the rows of one run."""
    priors: dict = {}
    for prompt in (prompt for prompt in PROMPTS if parse(prompt)[0] in kinds):
        for seed in seeds:
            for arm in chosen:
                method, changes, until = arms[arm]
                asked = METHODS[method].ask(prompt, "toy", seed, changes)
                last = asked.tag(until or list(asked.parts)[-1])
                if any(r["arm"] == arm and r["tag"] == last for r in read(out)):
                    continue
                new = list(rows(arm, asked, until, priors, sheets, begun(arm, asked)))
                mine = {(arm, *parse(prompt), str(seed))}
                table = [r for r in read(out) if (r["arm"], r["kind"], r["colour"], r["seed"]) not in mine]
                write(out, table + new, arms)
                print(arm, prompt, seed, *(f"{r['part']} {r['cpu_seconds']} s" for r in new), sep=" | ", flush=True)


def options(about: str, arms: Iterable[str], out: str) -> argparse.ArgumentParser:
    """The command line of a benchmark of arms."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arms", nargs="+", choices=arms)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--out", type=Path, default=DATA / f"{out}.csv")
    parser.add_argument("--sheets", type=Path, default=Path(f"runs/{out}"))
    return parser


def main() -> None:
    args = options(__doc__, [*ARMS, "montage"], "dreamflow").parse_args()
    measure(ARMS, [arm for arm in args.arms if arm != "montage"], args.kinds, args.seeds, args.out, args.sheets,
            lambda arm, asked: true_shape(parse(asked.prompt)[0]) if arm == "true" else None)
    if "montage" in args.arms:
        save_image(montage(args.sheets), DATA / "dreamflow.webp", quality=90)


if __name__ == "__main__":
    main()
