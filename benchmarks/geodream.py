"""GeoDream on the toybox, and what its paper takes away: ``python -m benchmarks.geodream full ...`` (notebook 16).

Rows as of :mod:`benchmarks.dreamflow`, to ``dreamlab/course/data/geodream.csv``: of the volume that a run begins with
(``start``), of the visual hull of the same views (``hull``: silhouettes and Chamfer alone, not aligned), and after each part.
``full`` is the method; all others stop after the part neus, and change one thing of it. ``montage`` is no arm, but the picture
of two kinds after that part, cut out of the sheets of all arms, to geodream.webp beside the table.
"""
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from benchmarks import dreamflow
from benchmarks.reconstruction import measure
from dreamlab.costvolume import cut_out, hull
from dreamlab.course import DATA
from dreamlab.mesh import lattice, sample
from dreamlab.methods.geodream import falling
from dreamlab.metrics.shape import POINTS, true_points
from dreamlab.metrics.truth import chamfer
from dreamlab.noise import stream
from dreamlab.pipeline import Asked
from dreamlab.report import save_image
from dreamlab.rules import SDS
from dreamlab.scenes import Scene
from dreamlab.scenes.neus import COVERED, cost_volume, random_volume, reconstructed
from dreamlab.scenes.textured import texture_grid
from dreamlab.schedules import balanced
from dreamlab.settings import options
from dreamlab.toybox.captions import parse
from dreamlab.toybox.dataset import GREY
from dreamlab.toybox.objects import Toy
from dreamlab.toybox.render import render
from dreamlab.viewpoints import Around, Circle, Near, source_views

START = partial(random_volume, samples=48, levels=4, finest=64, hidden=32)
ARMS = {name: ("geodream", changes, until) for name, changes, until in (
    ("full", {}, None),
    ("no prior", {"neus.start": START}, "neus"),
    ("fixed prior", {"neus.rates": {"grid": falling(1e-2), "color": falling(3e-3)}}, "neus"),
    ("constant rate", {"neus.rates.volume": 1e-2}, "neus"),
    ("texture anew", {"neus.start.coloured": False}, "neus"),
    ("SDS", {"neus.rule": partial(SDS.for_prior, guidance=4.5, weight=balanced)}, "neus"),
    ("half resolution", {"neus.resolution": 32}, "neus"),
    ("Perp-Neg", {"neus.prompts.perp_neg": True}, "neus"),
    ("sampled", {"neus.start.viewpoints": Near(elevation_deg=5.0)}, "neus"),
    ("not sampled", {"neus.start.viewpoints": Near(elevation_deg=5.0, back=True)}, "neus"),
    ("picture", {"neus.start.views": "toybox", "neus.start.viewpoints": Circle()}, "neus"),
    ("picture, sampled", {"neus.start.views": "toybox", "neus.start.viewpoints": Around(elevation_deg=5.0)}, "neus"),
    ("one wrong", {}, "neus"), ("true views", {}, "neus"))}
SHOWN = ("robot", "cyan"), ("owl", "pink")
OTHER = {"house": "bear"}  # whose view stands among the others', else a house's


def views_of(asked: Asked, arm: str) -> tuple:
    """The source views of a run, on white, with masks and cameras; its own generator makes the same ones again."""
    about = {name: value for name, (_, value) in options(asked.parts["neus"].start).items()}
    g = stream(asked.seed, "start")
    images, cameras = source_views(asked.prompt, about["viewpoints"], g, about["views"], about["turn"],
                                   guidance=about["guidance"])
    kind, colour = parse(asked.prompt)
    if arm == "true views":
        images = render(Toy(kind), colour, cameras, images.shape[1], (GREY,) * 3).rgb
    elif arm == "one wrong":
        other = render(Toy(OTHER.get(kind, "house")), colour, cameras[1:2], images.shape[1], (GREY,) * 3).rgb
        images = torch.cat([images[:1], other, images[2:]])
    return *cut_out(images), cameras, g, about


def begun(arm: str, asked: Asked) -> Scene | None:
    """What an arm begins with, where no setting says it."""
    if arm not in ("one wrong", "true views"):
        return None
    *views, g, about = views_of(asked, arm)
    grid = texture_grid(about["levels"], about["finest"], g)
    return reconstructed(*views, about["network"], g, about["sharpness"], about["samples"], grid, about["hidden"])


def hull_row(arm: str, asked: Asked) -> dict:
    """The measures of the visual hull of a run's views."""
    _, masks, cameras, *_ = views_of(asked, arm)
    places, (kind, colour) = lattice(48, COVERED), parse(asked.prompt)
    mesh, found = measure(-hull(masks, cameras, places.view(-1, 3)).view(places.shape[:3]), places, kind)
    points, _ = sample(mesh, POINTS, stream(0, "points"))
    return {"arm": arm, "kind": kind, "colour": colour, "seed": asked.seed, "part": "hull", "iou": round(found["iou"], 4),
            "mesh_chamfer_unaligned": round(chamfer(points, true_points(kind)), 4), "cpu_seconds": 0.0}


def rows(arm: str, asked: Asked, *more) -> Iterator[dict]:
    """As :func:`benchmarks.dreamflow.rows`, with the hull where there are views."""
    found = dreamflow.rows(arm, asked, *more)
    yield next(found)
    if asked.parts["neus"].start.func is cost_volume:
        yield hull_row(arm, asked)
    yield from found


def montage(sheets: Path, prompts: tuple[tuple[str, str], ...] = SHOWN) -> Image.Image:
    """The truth and each arm at seed 0, a column each of 96 pixels; of each prompt a row from the front and one from behind."""
    side, strip, gap = 96, 18, 4  # contact_sheet's
    whole = Image.new("RGB", (side * (1 + len(ARMS)), 2 * side * len(prompts)), "white")
    for i, prompt in enumerate(prompts):
        for k, (arm, row) in enumerate([("full", 0), *((arm, 2) for arm in ARMS)]):  # of truth, start and neus
            sheet = Image.open(sheets / f"{'-'.join([arm, *prompt])}-0.png")
            for j, view in enumerate((0, 4)):
                left, top = gap + view * (side + gap), row * (side + strip + gap) + strip
                whole.paste(sheet.crop((left, top, left + side, top + side)), (k * side, (2 * i + j) * side))
    return whole


def main() -> None:
    args = dreamflow.options(__doc__, [*ARMS, "montage"], "geodream").parse_args()
    arms = [arm for arm in args.arms if arm != "montage"]
    dreamflow.measure(ARMS, arms, args.kinds, args.seeds, args.out, args.sheets, begun, rows)
    if "montage" in args.arms:
        save_image(montage(args.sheets), DATA / "geodream.webp", quality=90)


if __name__ == "__main__":
    main()
