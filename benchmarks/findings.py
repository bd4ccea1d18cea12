"""The papers' claims about rules, tried on pictures: ``python -m benchmarks.findings vdm`` (notebook 06) or ``apfo`` (07).

Each run is the method text2image with the changes of one variant; a seed comes with its own prompt, none of which was looked at
while settings were chosen. Rows go to ``dreamlab/course/data/findings_NAME.json`` as they come, with the method's settings by
path, the pictures to ``runs/`` beside it; a run that is there is not run again. ``sheet vdm`` puts the pictures on one sheet.
"""
import argparse
import json
import platform
import time
from datetime import date
from pathlib import Path

import torch
from PIL import Image

from dreamlab.course import DATA
from dreamlab.files import write_text
from dreamlab.methods import METHODS
from dreamlab.metrics.appearance import measure, references
from dreamlab.pipeline import Asked, work
from dreamlab.priors.base import Prior
from dreamlab.priors.diffusion import DiffusionPrior
from dreamlab.report import save_image
from dreamlab.schedules import Grid
from dreamlab.settings import describe, flat

METHOD = METHODS["text2image"]
PROMPTS = ["a green mug", "a blue duck", "a pink robot", "an orange bear", "a purple house"]  # one for each seed
ALIKE = {"rule.guidance": 7.5, "rule.weight": "sigma2"}
# experiment -> variant -> what is changed in the method, whose rule is VDM
EXPERIMENTS = {
    "vdm": {
        "SDS": {"rule": "SDS"} | ALIKE,
        "VDM": {"rule.dca": False} | ALIKE,
        "VDM linear": {"rule.dca": False, "rule.operator": "LinearOperator"} | ALIKE,
        "VDM noisy": {"rule.dca": False, "rule.operator": "NoisyOperator"} | ALIKE,
        "VDM+DCA 100": {"rule.cutoff": 100} | ALIKE,
        "VDM+DCA 300": ALIKE,
        "VDM+DCA 500": {"rule.cutoff": 500} | ALIKE,
    },
    "apfo": {
        "APFO 200": {"rule": "APFO", "rule.grid.points": 200},
        "VSD 500": {"rule": "VSD", "steps": 500},
        "VSD linear t 500": {"rule": "VSD", "timesteps": Grid(points=500)},
        "VSD DreamTime 500": {"rule": "VSD", "timesteps": "DreamTime", "steps": 500},
    },
}


def plan(experiment: str, variant: str, seed: int) -> Asked:
    """One run."""
    return METHOD.ask(PROMPTS[seed % len(PROMPTS)], seed=seed, changes=EXPERIMENTS[experiment][variant])


def one(experiment: str, variant: str, seed: int, prior: Prior) -> tuple[dict, torch.Tensor]:
    """A run: its row, and its pictures (4, 64, 64, 3)."""
    asked = plan(experiment, variant, seed)
    real = references(asked.prompt, through=lambda images: prior.decode(prior.encode(images)))
    item, trace = next(work(asked, prior=prior)), []
    start = time.perf_counter()
    for step in item.run(progress=False):
        plain = (step.residual.value.flatten(1).norm(dim=1) / step.residual.weight).mean().item()
        trace.append((int(step.t[0]), step.loss, step.grad_norm, plain))
    seconds, pictures = time.perf_counter() - start, item.stage.scene.render().rgb.detach()
    row = {"variant": variant, "seed": seed, "prompt": asked.prompt, "steps": item.stage.steps, "seconds": seconds,
           **measure(pictures, asked.prompt, real)}
    if experiment == "apfo":  # per step: t, loss, gradient norm, norm of the residual without its weight
        row["trace"] = [[float(f"{v:.4g}") for v in values] for values in trace]
    return row, pictures


def keep(path: Path, known: dict) -> None:
    """JSON with a line for each run."""
    write_text(path, json.dumps(known, separators=(",", ":")).replace('{"variant"', '\n{"variant"') + "\n")


def sheet(experiment: str, seeds: int = 5, side: int = 64) -> Path:
    """``findings_NAME.webp``: the first picture of each run, a row a variant, a column a seed; a missing run is white."""
    whole = Image.new("RGB", (seeds * side, len(EXPERIMENTS[experiment]) * side), "white")
    for i, variant in enumerate(EXPERIMENTS[experiment]):
        for seed in range(seeds):
            if (strip := DATA / "runs" / f"{experiment}-{variant}-{seed}.png").exists():
                whole.paste(Image.open(strip).crop((0, 0, side, side)), (seed * side, i * side))
    save_image(whole, path := DATA / f"findings_{experiment}.webp", quality=85, method=6)
    return path


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("experiment", choices=[*EXPERIMENTS, "sheet"])
    arguments.add_argument("of", nargs="?", choices=list(EXPERIMENTS), help="which experiment to put on a sheet")
    arguments.add_argument("--seeds", type=int, default=5)
    args = arguments.parse_args()
    if (args.experiment == "sheet") != (args.of is not None):
        arguments.error(f"give one experiment, {' or '.join(EXPERIMENTS)}, or sheet and the experiment to show")
    if args.experiment == "sheet":
        print(sheet(args.of, args.seeds))
        return
    path, prior = DATA / f"findings_{args.experiment}.json", DiffusionPrior.load("toybox")
    settings = flat(describe(METHOD.toy["pictures"]))
    known = json.loads(path.read_text()) if path.exists() else {"settings": settings, "rows": []}
    if known["settings"] != settings:
        arguments.error(f"{path} holds rows of other settings: move it away to make it anew")
    (sheets := DATA / "runs").mkdir(parents=True, exist_ok=True)
    for seed in range(args.seeds):
        for variant in EXPERIMENTS[args.experiment]:
            if any((row["variant"], row["seed"]) == (variant, seed) for row in known["rows"]):
                continue
            row, pictures = one(args.experiment, variant, seed, prior)
            strip = (torch.cat(list(pictures), 1) * 255).round().byte().numpy()
            Image.fromarray(strip).save(sheets / f"{args.experiment}-{variant}-{seed}.png")
            known["rows"].append(row)
            known |= {"date": str(date.today()), "torch": torch.__version__, "threads": torch.get_num_threads(),
                      "processor": platform.machine()}
            keep(path, known)
            print({k: v if isinstance(v, str | int) else round(v, 3) for k, v in row.items() if k != "trace"}, flush=True)


if __name__ == "__main__":
    main()
