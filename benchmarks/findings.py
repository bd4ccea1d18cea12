"""The papers' claims about rules, tried on pictures: ``python -m benchmarks.findings vdm`` (notebook 06) or ``apfo`` (07).

Each run optimises four latent pictures of one prompt with one variant; a seed comes with its own prompt, none of which was
looked at while settings were chosen. Rows go to ``dreamlab/course/data/findings_NAME.json`` as they come, the pictures to
``runs/`` beside it, and a run that is there is not run again. ``sheet vdm`` puts the pictures on one sheet.
"""
import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path

import torch
from PIL import Image

from dreamlab.course import DATA
from dreamlab.demo import save_image, write_text
from dreamlab.metrics.appearance import measure, references
from dreamlab.pipelines.picture import Settings, stage
from dreamlab.priors.base import Prior
from dreamlab.priors.diffusion import DiffusionPrior
from dreamlab.rules import SDS, VDM, LinearOperator, NoisyOperator, Rule, ULite
from dreamlab.schedules import DreamTime, Grid, sigma2
from dreamlab.stage import run

PROMPTS = ["a green mug", "a blue duck", "a pink robot", "an orange bear", "a purple house"]  # one for each seed


def vdm(make: Callable[[Prior], torch.nn.Module], **settings) -> Callable[[Prior], Rule]:
    return lambda prior: VDM(make(prior), guidance=7.5, weight=sigma2, **settings)


def ulite(prior: Prior) -> ULite:
    return ULite.for_shape(prior.shape)


# name -> rule; all at guidance 7.5, the same w(t) and the same timesteps
VDM_VARIANTS = {
    "SDS": lambda prior: SDS(guidance=7.5, weight=sigma2),
    "VDM": vdm(ulite, dca=False),
    "VDM linear": vdm(lambda prior: LinearOperator(prior.shape), dca=False),
    "VDM noisy": vdm(lambda prior: NoisyOperator(ulite(prior), prior.shape), dca=False),
    "VDM+DCA 100": vdm(ulite, cutoff=100),
    "VDM+DCA 300": vdm(ulite),
    "VDM+DCA 500": vdm(ulite, cutoff=500),
}
# name -> steps, rule, timesteps (None: the settings')
APFO_VARIANTS = {
    "APFO 200": (200, "APFO", None),
    "VSD 500": (500, "VSD", None),
    "VSD linear t 500": (500, "VSD", Grid(points=500)),
    "VSD DreamTime 500": (500, "VSD", DreamTime()),
}
EXPERIMENTS = {"vdm": list(VDM_VARIANTS), "apfo": list(APFO_VARIANTS)}


def plan(experiment: str, variant: str, seed: int, prior: Prior):
    """The stage of one run, and its settings."""
    settings = Settings(PROMPTS[seed % len(PROMPTS)], seed=seed)
    if experiment == "vdm":
        settings = replace(settings, rule="SDS" if variant == "SDS" else "VDM", guidance=7.5, weight="sigma2")
        chosen = stage(settings, prior)
        return replace(chosen, rule=VDM_VARIANTS[variant](prior)), settings
    steps, rule, timesteps = APFO_VARIANTS[variant]
    settings = replace(settings, rule=rule, steps=steps)
    chosen = stage(settings, prior)
    return (replace(chosen, timesteps=timesteps) if timesteps else chosen), settings


def one(experiment: str, variant: str, seed: int, prior: Prior) -> tuple[dict, torch.Tensor]:
    """A run: its row, and its pictures (4, 64, 64, 3)."""
    chosen, settings = plan(experiment, variant, seed, prior)
    real = references(settings.prompt, through=lambda images: prior.decode(prior.encode(images)))
    start, trace = time.perf_counter(), []
    for step in run(chosen, progress=False):
        plain = (step.residual.value.flatten(1).norm(dim=1) / step.residual.weight).mean().item()
        trace.append((int(step.t[0]), step.loss, step.grad_norm, plain))
    pictures = chosen.scene.render().rgb.detach()
    row = {"variant": variant, "seed": seed, "prompt": settings.prompt, "steps": settings.steps,
           "seconds": time.perf_counter() - start, **measure(pictures, settings.prompt, real)}
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
    known = json.loads(path.read_text()) if path.exists() else {"rows": []}
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
                      "processor": platform.machine(), "settings": asdict(Settings(""))}
            keep(path, known)
            print({k: v if isinstance(v, str | int) else round(v, 3) for k, v in row.items() if k != "trace"}, flush=True)


if __name__ == "__main__":
    main()
