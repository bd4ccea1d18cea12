"""The bundled image prior's quality: ``python -m benchmarks.zero123`` writes ``benchmarks/results/zero123.json``.

64 pictures, every kind in every colour, from anywhere (azimuth at random, elevation -15 to 35), and from within 45 degrees of
the front. Of each six views, all together, at Zero123++'s relative azimuths 30, 90, ..., 330 and elevations 20 and -10 in turn;
and the same, each alone, as Zero123 makes them; 14 DDIM steps. ``within_20_deg`` counts views, not sets. Beside them cases with
known answers: the true views, through the autoencoder, turned by 30 degrees; and cheats: the picture itself, six times, and the
true views of a picture whose azimuth was taken for the front.
"""
import argparse
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
from PIL import Image

from benchmarks.multiview import PAIRS
from dreamlab.cameras import Cameras, orbit
from dreamlab.export import to_uint8
from dreamlab.files import write_json
from dreamlab.metrics.views import Reading, read_views
from dreamlab.noise import stream
from dreamlab.priors.multiview import sample_views
from dreamlab.priors.zero123 import Zero123
from dreamlab.report import save_image
from dreamlab.toybox.dataset import COLOUR_NAMES, GREY, KIND_NAMES
from dreamlab.toybox.objects import HELD_OUT, Toy
from dreamlab.toybox.render import render
from dreamlab.types import Images

STEPS, WITHIN = 14, 20.0


def seen_from(kind: str, colour: str, front: bool) -> Cameras:
    """The camera of a picture."""
    u = torch.rand(2, generator=stream(0, f"{front} {colour} {kind}")).tolist()
    return orbit(90 * u[0] - 45 if front else 360 * u[0], 50 * u[1] - 15)


def six(seen: Cameras) -> Cameras:
    return orbit(seen.azimuth_deg + 30 + 60 * torch.arange(6), torch.tensor([20.0, -10.0] * 3))


def truth(kind: str, colour: str, cameras: Cameras) -> Images:
    return render(Toy(kind), colour, cameras, 64, (GREY,) * 3).rgb


def summary(readings: list[Reading]) -> dict[str, float]:
    share = lambda x: round(float(torch.tensor(x, dtype=torch.float).mean()), 4)  # noqa: E731
    return {"pictures": len(readings), "psnr": round(share([r.psnr for r in readings]), 2),
            "within_20_deg": share([(r.turn_deg.abs() <= WITHIN).float().mean().item() for r in readings]),
            "kind": share([r.kind_right for r in readings]), "colour": share([r.colour_right for r in readings])}


def measure(views: Callable[[str, str, Cameras], Images], front: bool) -> tuple[dict, dict]:
    """What the views of all pictures are read as, and the views."""
    made = {pair: views(*pair, seen_from(*pair, front)) for pair in PAIRS}
    readings = {pair: read_views(made[pair], six(seen_from(*pair, front)), *pair, GREY) for pair in PAIRS}
    kinds = {kind: summary([readings[kind, c] for c in COLOUR_NAMES]) for kind in KIND_NAMES}
    return summary([*readings.values()]) | {"held_out": summary([readings[p] for p in PAIRS if p in HELD_OUT]),
                                            "kinds": kinds}, made


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prior", default="toybox-zero123")
    parser.add_argument("--guidance", type=float, help="default: what the prior's folder says")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/zero123.json"))
    parser.add_argument("--sheet", type=Path, default=Path("runs/zero123.png"))
    args = parser.parse_args()
    prior = Zero123.load(args.prior)
    guidance, spent = args.guidance or prior.card.guidance, []

    def sampled(together: bool):
        def views(kind: str, colour: str, seen: Cameras) -> Images:
            picture, cameras, g = truth(kind, colour, seen)[0], six(seen), stream(args.seed, f"{colour} {kind}")
            n, start = 6 if together else 1, time.process_time()
            made = torch.cat([sample_views(prior, picture, cameras[i : i + n], g, guidance, STEPS, seen)
                              for i in range(0, 6, n)])
            spent.append(time.process_time() - start)
            return made
        return views

    through = lambda rgb: prior.decode(prior.encode(rgb))  # noqa: E731
    cases = {
        "true views": lambda kind, colour, seen: truth(kind, colour, six(seen)),
        "autoencoder": lambda kind, colour, seen: through(truth(kind, colour, six(seen))),
        "turned by 30 degrees": lambda kind, colour, seen: truth(kind, colour, six(orbit(seen.azimuth_deg + 30))),
        "the picture itself": lambda kind, colour, seen: truth(kind, colour, seen).expand(6, -1, -1, -1),
        "taken for the front": lambda kind, colour, seen: truth(kind, colour, six(orbit(0.0))),
        "six together": sampled(True), "each alone": sampled(False)}
    result = {"prior": args.prior, "guidance": guidance, "steps": STEPS, "seed": args.seed, "date": str(date.today()),
              "torch": torch.__version__, "threads": torch.get_num_threads()}
    for where, front in (("from anywhere", False), ("from the front", True)):
        for name, views in cases.items():
            result[f"{where}, {name}"], made = measure(views, front)
            print(f"{where}, {name:22s}", {k: v for k, v in result[f"{where}, {name}"].items() if k != "kinds"}, flush=True)
            if name == "six together":
                result["cpu_seconds_a_set"] = round(sum(spent[-64:]) / 64, 2)
                rows = [torch.cat([torch.cat([truth(kind, c, seen_from(kind, c, front))[0], *made[kind, c]], 1)
                                   for c in COLOUR_NAMES[:2]], 1) for kind in KIND_NAMES]
                args.sheet.parent.mkdir(parents=True, exist_ok=True)
                file = args.sheet.with_stem(f"{args.sheet.stem}-{'front' if front else 'anywhere'}")
                save_image(Image.fromarray(to_uint8(torch.cat(rows))), file)
    print("CPU seconds a set:", result["cpu_seconds_a_set"])
    write_json(args.out, result)


if __name__ == "__main__":
    main()
