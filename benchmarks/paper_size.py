"""A dry run of DreamMapping at the paper's size, VDM beside VSD: ``python -m benchmarks.paper_size``. It needs a CUDA GPU.

What is timed is the pipeline's own step, :func:`dreamlab.stage.advance` on the stage of the method dreammapping, with the
copy that a run keeps to go back to: 50,000 Gaussians, 4 views of 512 pixels, UNet and autoencoder of Stable Diffusion 2.1
base in half precision. Nothing is fetched: the weights are random, which cost what trained ones do, and so are the text
embeddings; the points are those of the bundled points prior, in Shap-E's place. So the picture means nothing, and the number
of Gaussians is held: growth only observes.

``rounds`` steps are spread evenly over the 5000, because cameras and rates change; each is taken twice. The first is timed
as a whole, and gives the seconds a step and the projection. The second stops at each part, and gives the shares:

* ``render``: the scene's forward pass. ``encode``: the autoencoder's.
* ``prior``: forwards of the frozen UNet. ``fit``: the step of the operator, or of VSD's LoRA. ``predict``: LoRA's prediction.
* ``backward``: through autoencoder and renderer, to the Gaussians. ``adam``: their optimiser.
* ``snapshot``: the copy.
* ``rest``: cameras, prompts, noise, sums, regularisers, what growth observes.

``--tiny`` runs the same code at a tiny size on whatever there is; its times mean nothing.
"""
import argparse
import gc
import platform
import sys
from contextlib import ExitStack
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import mean

import torch

import dreamlab.stage as loop
from benchmarks.bench_rules import Clock, sd21_prior, watch
from dreamlab.files import write_json
from dreamlab.methods import METHODS
from dreamlab.noise import randn, seeded
from dreamlab.pipeline import Part
from dreamlab.priors.base import Prior
from dreamlab.priors.diffusion import quiet
from dreamlab.scenes.growth import Growth
from dreamlab.settings import options
from dreamlab.stage import Stage, advance, make_optimiser

RULES = ("VDM", "VSD")
PARTS = ("render", "encode", "prior", "fit", "predict", "backward", "adam", "snapshot", "rest")
PAPER = "5000 iterations in 15 minutes on an A100 (arXiv 2409.05099, section 4.2)"
HOLD = Growth(until=0)  # observes, and leaves the number of Gaussians as it is
# Of stabilityai/stable-diffusion-2-1-base; everything else is diffusers' default.
VAE = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4,
       "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
TINY_UNET = {"sample_size": 8, "block_out_channels": (32,) * 4, "attention_head_dim": (1, 1, 2, 2), "cross_attention_dim": 16,
             "layers_per_block": 1}
TINY_VAE = VAE | {"block_out_channels": (32,) * 4, "layers_per_block": 1}


def whole_prior(device: str, dtype: torch.dtype, seed: int = 0, unet: dict | None = None, vae: dict = VAE) -> Prior:
    """The untrained UNet of :func:`sd21_prior` with an untrained autoencoder, and random embeddings for any text."""
    from diffusers import AutoencoderKL

    prior, _ = sd21_prior(device, dtype, seed, **(unet or {}))
    with quiet(), torch.device(device):
        prior.vae = AutoencoderKL(**vae).to(dtype).eval().requires_grad_(False)
    prior.embed = lambda texts, negative=False, null=prior.null: randn((len(texts), *null.shape[1:]), seeded(seed, 3)).to(null)
    return prior


def step(stage: Stage, adam: torch.optim.Adam, i: int) -> dict[str, float]:
    """Step i, twice: seconds as a whole, then milliseconds by part, and on CUDA the peak of the memory over both."""
    device = stage.prior.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    clock = Clock(device)
    start = clock.now()
    before = loop.snapshot(stage, adam)  # held through the step, as a run does
    advance(stage, adam, i)
    row = {"seconds": (clock.now() - start) / 1e3}
    with ExitStack() as stack:
        watch(clock, stack, stage.prior, stage.rule)
        for owner, name, part in ((stage.scene, "render", "render"), (stage.prior, "encode", "encode"),
                                  (torch.autograd, "grad", "backward"), (adam, "step", "adam"),
                                  (loop, "snapshot", "snapshot")):
            stack.enter_context(clock.on(owner, name, part))
        start = clock.now()
        before = loop.snapshot(stage, adam)
        advance(stage, adam, i)
        whole = clock.now() - start
    del before
    row |= {part: clock.ms[part] for part in PARTS} | {"rest": whole - sum(clock.ms.values())}
    return row | ({"peak_gb": torch.cuda.max_memory_allocated(device) / 1e9} if device.type == "cuda" else {})


def bench(prior: Prior, part: Part, rounds: int = 20, seed: int = 0) -> dict[str, dict]:
    """Both rules on scenes of their own, by turns; the first step of each is for warming up and does not count."""
    stages = {rule: part.set(rule=rule).build("a red mug", prior, seed) for rule in RULES}
    adams = {rule: make_optimiser(stage) for rule, stage in stages.items()}
    rows: dict[str, list[dict[str, float]]] = {rule: [] for rule in RULES}
    for i in [0, *(part.steps * k // rounds for k in range(rounds))]:
        for rule, stage in stages.items():
            rows[rule].append(step(stage, adams[rule], i))
    found = {}
    for rule, (_, *seen) in rows.items():
        average = {key: mean(row[key] for row in seen) for key in seen[0]}
        whole = sum(average[name] for name in PARTS)
        found[rule] = {"seconds a step": average["seconds"], "slowest": max(row["seconds"] for row in seen),
                       "share": {name: average[name] / whole for name in PARTS},
                       "peak GB": max(row["peak_gb"] for row in seen) if "peak_gb" in average else None,
                       "minutes": average["seconds"] * part.steps / 60, "gaussians": len(stages[rule].scene)}
    return found | {"VSD / VDM": found["VSD"]["seconds a step"] / found["VDM"]["seconds a step"]}


def table(result: dict[str, dict]) -> str:
    """What :func:`bench` found, to read."""
    lines = ["      s a step   minutes   peak GB" + "".join(f"{part:>10}" for part in PARTS)]
    for rule in RULES:
        row = result[rule]
        peak = "-" if row["peak GB"] is None else f"{row['peak GB']:.1f}"
        lines.append(f"{rule} {row['seconds a step']:10.3f}{row['minutes']:10.1f}{peak:>10}"
                     + "".join(f"{row['share'][part]:10.1%}" for part in PARTS))
    return "\n".join([*lines, f"VSD / VDM {result['VSD / VDM']:.2f}"])


def main(arguments: list[str] | None = None) -> int:
    """0, or 2 where there is no CUDA GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="the same code at a tiny size, on whatever there is")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="default: benchmarks/results/paper_size.json, and nothing with --tiny")
    args = parser.parse_args(arguments)
    if args.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {args.rounds}")
    cuda = torch.cuda.is_available()
    if not (cuda or args.tiny):
        print("paper_size: this needs a CUDA GPU, and torch finds none here; --tiny runs the same code at a tiny size on the "
              "CPU", file=sys.stderr)
        return 2
    small = {"start.points": 300, "resolution": 64, "views": 2, "steps": 50} if args.tiny else {}
    part = METHODS["dreammapping"].paper["shape"].set({"start.prior": "toybox", "growth": HOLD} | small)
    size = {"points": options(part.start)["points"][1], "resolution": part.resolution, "views": part.views, "steps": part.steps}
    sizes = {"unet": TINY_UNET, "vae": TINY_VAE} if args.tiny else {}
    device, processor = ("cuda", torch.cuda.get_device_name()) if cuda else ("cpu", platform.machine())
    runs = {}
    path = args.json or (None if args.tiny else Path(__file__).parent / "results/paper_size.json")
    for dtype in (torch.float16, torch.bfloat16) if cuda else (torch.float32,):
        prior = whole_prior(device, dtype, args.seed, **sizes)
        weights = {"unet": prior.unet.num_parameters(), "vae": prior.vae.num_parameters()}
        runs[name := str(dtype).removeprefix("torch.")] = bench(prior, part, args.rounds, args.seed)
        print(f"{size['points']} Gaussians, {part.views} views of {part.resolution} px, {name}; "
              f"torch {torch.__version__}, {processor}; {args.rounds} steps of {part.steps}\n{table(runs[name])}\n")
        if path:  # after each, so that one is kept if the next finds no room
            versions = {package: version(package) for package in ("torch", "diffusers", "peft", *["gsplat"] * cuda)}
            write_json(path, {
                "date": str(date.today()), "processor": processor, "versions": versions, "cuda": torch.version.cuda,
                "seed": args.seed, "rounds": args.rounds, "tiny": args.tiny} | size | {
                "parameters": weights, "paper": PAPER, "runs": runs})
        del prior  # and all that was built on it, before the next peak is measured
        gc.collect()
        torch.cuda.empty_cache()
    print(f"The paper: {PAPER}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
