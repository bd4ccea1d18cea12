"""The toy refiner alone, in 2D: ``python -m benchmarks.refiner`` writes ``benchmarks/results/refiner.json``.

Four true renders of each kind, of 128 pixels, are blurred by 1.5 pixels (sigma) and then go as latents along DreamFlow's last
grid, t from 299 to -1 in 30 steps, by APFO with the identity as critic and no guidance: each step is plain gradient descent on
the residual with rate 1. PSNR is of whole pictures, sharpness over the truth's in what lies 6 pixels inside the object. Beside
it the bundled prior, which has seen no such pictures, in the refiner's place, and the autoencoder alone.
"""
import argparse
import time
from datetime import date
from functools import partial
from pathlib import Path

import torch

from benchmarks.dreamflow import PROMPTS
from dreamlab import export
from dreamlab.cameras import ring
from dreamlab.files import write_json
from dreamlab.metrics.align import decibels
from dreamlab.metrics.appearance import eroded, inside, sharpness
from dreamlab.noise import randn, seeded
from dreamlab.priors.critic import identity
from dreamlab.priors.diffusion import DiffusionPrior
from dreamlab.prompts import ViewPrompts
from dreamlab.report import save_image
from dreamlab.rules import APFO
from dreamlab.schedules import Grid
from dreamlab.toybox.captions import parse
from dreamlab.toybox.objects import Toy
from dreamlab.toybox.render import blur, render
from dreamlab.types import Images

VIEWS, SIGMA = 4, 1.5


def refined(prior: DiffusionPrior, pictures: Images, prompt: str, seed: int = 0) -> Images:
    """Pictures along the grid, in latents."""
    grid = Grid(299, -1, 30, 1)
    rule = APFO.for_prior(prior, critic=partial(identity), grid=grid, guidance=1.0)
    x, cameras = prior.encode(pictures), ring(len(pictures))
    asked = ViewPrompts(prior, prompt)(cameras)
    for step in range(grid.steps):
        generator = seeded(seed, step)
        t = grid(step, grid.steps, len(x), generator)
        x = x - rule(prior, x, t, randn(tuple(x.shape), generator), asked, cameras).value
    return prior.decode(x)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/refiner.json"))
    parser.add_argument("--sheets", type=Path, default=Path("runs/refiner"))
    args = parser.parse_args()
    refiner, plain = DiffusionPrior.load("toybox-refiner"), DiffusionPrior.load("toybox")
    plain.resolution, plain.shape = refiner.resolution, refiner.shape
    rows = []
    for prompt in PROMPTS:
        kind, colour = parse(prompt)
        truth = render(Toy(kind), colour, ring(VIEWS), 128)
        soft = blur(truth.rgb.permute(0, 3, 1, 2), SIGMA).permute(0, 2, 3, 1)
        begin = time.perf_counter()
        shown = {"blurred": soft, "refiner": refined(refiner, soft, prompt)}
        seconds = time.perf_counter() - begin
        shown |= {"plain prior": refined(plain, soft, prompt), "autoencoder": refiner.decode(refiner.encode(soft))}
        within = eroded(truth.alpha[..., 0] > 0.5, 6)
        right = inside(sharpness(truth.rgb), within)
        rows.append({"kind": kind, "colour": colour, "seconds": round(seconds, 1)} | {
            name: {"psnr": round(decibels((rgb - truth.rgb).square().mean().item()), 2),
                   "sharpness": round(inside(sharpness(rgb), within) / right, 3)} for name, rgb in shown.items()})
        print(rows[-1], flush=True)
        args.sheets.mkdir(parents=True, exist_ok=True)
        save_image(export.contact_sheet([truth.rgb, *shown.values()], ["ground truth", *shown]), args.sheets / f"{kind}.png")
    gain = [row["refiner"]["psnr"] - row["blurred"]["psnr"] for row in rows]
    print(f"at least 2 dB nearer in {sum(g >= 2 for g in gain)} of {len(rows)} kinds (least {min(gain):+.2f} dB), sharpness at "
          f"least 0.7 in {sum(row['refiner']['sharpness'] >= 0.7 for row in rows)}")
    write_json(args.out, {"date": str(date.today()), "torch": torch.__version__, "views": VIEWS, "sigma": SIGMA, "rows": rows})


if __name__ == "__main__":
    main()
