"""The bundled multi-view prior's quality: ``python -m benchmarks.multiview`` writes ``benchmarks/results/multiview.json``.

64 sets, every kind in every colour, each four views 90 degrees apart, the first at the front, at elevation 15; 14 DDIM steps.
Beside them what the same instrument reads of cases with known answers: the true views, through the autoencoder, in another
order, turned, and of a toy without a face; and the prior with every view for itself (no joined attention).
"""
import argparse
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import torch
from PIL import Image

from dreamlab.cameras import Cameras, orbit, ring
from dreamlab.export import to_uint8
from dreamlab.files import write_json
from dreamlab.metrics.views import Reading, read_views
from dreamlab.noise import stream
from dreamlab.priors.base import Card
from dreamlab.priors.diffusion import BUNDLED, DiffusionPrior
from dreamlab.priors.multiview import sample_views
from dreamlab.report import save_image
from dreamlab.toybox.captions import caption
from dreamlab.toybox.dataset import COLOUR_NAMES, GREY, KIND_NAMES
from dreamlab.toybox.objects import HELD_OUT, Toy, lathe
from dreamlab.toybox.render import render
from dreamlab.toybox.training.multiview import train_multiview
from dreamlab.types import Images

PAIRS = [(kind, colour) for kind in KIND_NAMES for colour in COLOUR_NAMES]
WITHIN, STEPS = 20.0, 14  # degrees; of DDIM


def sampled(prior: DiffusionPrior, guidance: float, seed: int, joined: int = 4) -> Callable[[str, str], Images]:
    """Sets as the prior makes them, ``joined`` views at a time: 1 is attention off."""
    def views(kind: str, colour: str) -> Images:
        generator = stream(seed, f"{colour} {kind}")
        return torch.cat([sample_views(prior, caption(kind, colour), ring(4)[i : i + joined], generator, guidance, STEPS)
                          for i in range(0, 4, joined)])
    return views


def known(prior: DiffusionPrior, cameras: Cameras, encoded: bool = False, **warp) -> Callable[[str, str], Images]:
    """True views, from ``cameras``, and through the autoencoder if ``encoded``."""
    def views(kind: str, colour: str) -> Images:
        rgb = render(Toy(kind, **warp), colour, cameras, prior.resolution, (GREY,) * 3).rgb
        return prior.decode(prior.encode(rgb)) if encoded else rgb
    return views


def summary(readings: list[Reading]) -> dict[str, float]:
    share = lambda x: round(sum(x) / len(readings), 4)  # noqa: E731
    return {"sets": len(readings), "psnr": round(share(r.psnr for r in readings), 2),
            "one_front": share(r.fronts == 1 for r in readings),
            "all_within_20_deg": share(r.off_deg <= WITHIN for r in readings),
            "within_20_deg_of_each_other": share(r.apart_deg <= WITHIN for r in readings),
            "kind": share(r.kind_right for r in readings), "colour": share(r.colour_right for r in readings)}


def measure(views: Callable[[str, str], Images]) -> tuple[dict, dict[tuple[str, str], Images]]:
    pictures = {pair: views(*pair) for pair in PAIRS}
    readings = {pair: read_views(made, ring(4), *pair, GREY) for pair, made in pictures.items()}
    held = [readings[pair] for pair in PAIRS if pair in HELD_OUT]
    kinds = {kind: round(sum(readings[kind, c].psnr for c in COLOUR_NAMES) / 8, 2) for kind in KIND_NAMES}
    return summary([*readings.values()]) | {"held_out": summary(held), "psnr_of_kinds": kinds}, pictures


def ablations(out: Path = Path("runs/multiview"), steps: int = 2000) -> None:
    """The priors of ``sweeps/multiview_ablations.toml``; a training that was interrupted goes on."""
    bundled = BUNDLED["toybox-multiview"]
    shutil.copytree(bundled / "unet", out / "alone/unet", dirs_exist_ok=True)
    replace(Card.read(bundled), joined=1).write(out / "alone")
    train_multiview(out, steps=steps, relative=True)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prior", default="toybox-multiview")
    parser.add_argument("--guidance", type=float, help="default: what the prior's folder says")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/multiview.json"))
    parser.add_argument("--ablations", action="store_true")
    parser.add_argument("--sheet", type=Path, default=Path("runs/multiview.png"))
    args = parser.parse_args()
    if args.ablations:
        with torch.enable_grad():
            ablations()
    prior = DiffusionPrior.load(args.prior)
    guidance = args.guidance or prior.card.guidance
    result = {"prior": args.prior, "guidance": guidance, "steps": STEPS, "seed": args.seed, "date": str(date.today()),
              "torch": torch.__version__, "threads": torch.get_num_threads()}
    turned = ring(4)
    cases = {"true views": known(prior, turned), "autoencoder": known(prior, turned, encoded=True),
             "in another order": known(prior, orbit(turned.azimuth_deg.flip(0))),
             "turned by 30 degrees": known(prior, orbit(turned.azimuth_deg + 30)),
             "without a face": known(prior, turned, warp=lathe)}
    for name, views in cases.items():
        result[name] = measure(views)[0]
        print(f"{name:20s}", {k: v for k, v in result[name].items() if not isinstance(v, dict)}, flush=True)
    start = time.process_time()
    made = {pair: sampled(prior, guidance, args.seed)(*pair) for pair in PAIRS}
    result["cpu_seconds_a_set"] = round((time.process_time() - start) / len(PAIRS), 2)
    result["prior's"], pictures = measure(lambda *pair: made[pair])
    result["attention off"] = measure(sampled(prior, guidance, args.seed, joined=1))[0]
    if args.ablations:
        result["relative cameras"] = measure(sampled(DiffusionPrior.load("runs/multiview/relative"), guidance, args.seed))[0]
    for name in [name for name in ("prior's", "attention off", "relative cameras") if name in result]:
        print(f"{name:20s}", result[name], flush=True)
    print("CPU seconds a set:", result["cpu_seconds_a_set"])
    write_json(args.out, result)
    rows = [torch.cat([torch.cat([*pictures[kind, colour]], 1) for colour in COLOUR_NAMES[:4]], 1) for kind in KIND_NAMES]
    args.sheet.parent.mkdir(parents=True, exist_ok=True)
    save_image(Image.fromarray(to_uint8(torch.cat(rows))), args.sheet)


if __name__ == "__main__":
    main()
