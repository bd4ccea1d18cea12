"""What a step of each rule costs, and of what it is made: ``python -m benchmarks.bench_rules``.

Every rule distils the same 4 pictures in latents at the same t. In each round every rule takes one step, so that whatever else
the computer does falls on all of them; times are medians over the rounds, and ratios are taken within a round.

* ``prior``: forwards of the frozen UNet.
* ``fit``: the step of what learns: the LoRA of VSD, APFO and ASD, the embedding of LODS, the operator of VDM with its
  prediction. A frozen forward inside a fit (ASD's target, LODS's UNet) is the fit's.
* ``predict``: the variational term of what has learnt: a critic's eps, LMC-SDS's b (its training, before a run, is left out).
* ``rest``: the scene, noise, sums and Adam.
* ``rows``: pictures that go through a UNet in a step, frozen or adapted; ``back``: those whose gradient comes back through it.

SDI, PFD and ISM invert up to t, so their cost grows with it; t = 500 is the middle of the schedule.

``--sd21`` measures the same at the architecture of Stable Diffusion 2.1 base, 512 px, in half precision, with the peak of the
memory: random weights cost what trained ones do. It needs a CUDA GPU.
"""
import argparse
import platform
import sys
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from datetime import date
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import torch
from torch import nn

from dreamlab import rules
from dreamlab.files import write_json
from dreamlab.noise import randn, seeded
from dreamlab.priors.base import Prior
from dreamlab.priors.diffusion import DiffusionPrior, quiet
from dreamlab.prompts import Prompt
from dreamlab.scenes.picture import Picture
from dreamlab.stage import Stage, advance, latents, make_optimiser
from dreamlab.threads import threads

# Of stabilityai/stable-diffusion-2-1-base; everything else is diffusers' default.
SD21 = {"sample_size": 64, "in_channels": 4, "out_channels": 4, "block_out_channels": (320, 640, 1280, 1280),
        "attention_head_dim": (5, 10, 20, 20), "cross_attention_dim": 1024, "use_linear_projection": True}
PARTS = ("prior", "fit", "predict", "rest")


def toybox() -> tuple[Prior, Prompt]:
    """The bundled prior and a prompt."""
    prior = DiffusionPrior.load("toybox")
    return prior, Prompt(prior.embed(["a red mug"]), prior.null)


def sd21_prior(device: str = "cuda", dtype: torch.dtype = torch.float16, seed: int = 0, **changes) -> tuple[Prior, Prompt]:
    """An untrained UNet of SD 2.1 base's shape (``changes`` make it smaller), and random text conditions; no autoencoder."""
    from diffusers import DDIMScheduler, UNet2DConditionModel

    config = SD21 | changes
    torch.manual_seed(seed)
    with quiet(), torch.device(device):
        unet = UNet2DConditionModel(**config).to(dtype)
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    prior = DiffusionPrior(SimpleNamespace(unet=unet, vae=nn.Identity(), text_encoder=nn.Identity(), scheduler=scheduler,
                                           vae_scale_factor=8))
    y, prior.null = (randn((1, 77, config["cross_attention_dim"]), seeded(seed, i)).to(device, dtype) for i in (1, 2))
    return prior, Prompt(y, prior.null)


class Clock:
    """Milliseconds by part. Of timed calls inside one another only the outermost counts, so that nothing counts twice."""

    def __init__(self, device: torch.device):
        self.device, self.ms, self.rows, self.inside = device, Counter(), Counter(), False

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() * 1e3

    @contextmanager
    def on(self, owner: object, name: str, part: str):
        """Time a method of one object, or a function of a module."""
        call, own = getattr(owner, name), vars(owner).get(name)

        def timed(*args, **kwargs):
            if self.inside:
                return call(*args, **kwargs)
            start, self.inside = self.now(), True
            try:
                return call(*args, **kwargs)
            finally:
                self.ms[part] += self.now() - start
                self.inside = False

        setattr(owner, name, timed)
        try:
            yield
        finally:
            setattr(owner, name, own) if own else delattr(owner, name)  # then the class's own shows again

    @contextmanager
    def count(self, unet: nn.Module):
        """Count the rows that a UNet is given, and those that it is given with gradients on."""
        def seen(_, args):
            self.rows["rows"] += len(args[0])
            self.rows["back"] += len(args[0]) * torch.is_grad_enabled()

        hook = unet.register_forward_pre_hook(seen)
        try:
            yield
        finally:
            hook.remove()


def watch(clock: Clock, stack: ExitStack, prior: Prior, rule: rules.Rule) -> None:
    """Put the clock on whatever this rule has: the frozen prior, a critic, an operator, LMC-SDS's b."""
    critic, b, operator = (getattr(rule, name, None) for name in ("critic", "b", "operator"))
    for owner, name, part in ((prior, "_eps", "prior"), (critic, "fit", "fit"), (critic, "eps", "predict"),
                              (b, "forward", "predict"), (operator and rule, "fit", "fit")):
        if owner:
            stack.enter_context(clock.on(owner, name, part))
    for owner in (prior, critic):
        if hasattr(owner, "unet"):
            stack.enter_context(clock.count(owner.unet))


def plan(name: str, prior: Prior, prompt: Prompt, batch: int, t: int, seed: int) -> tuple[Stage, torch.optim.Optimizer]:
    """Latents to distil by one rule, at always the same t."""
    rule = getattr(rules, name).for_prior(prior, seed=seed, **{"pretrain": 0} if name == "LMCSDS" else {})
    scene = Picture(randn((batch, *prior.shape), seeded(seed, -1)).to(prior.device), prior.decode)
    stage = Stage(scene, prior, rule, lambda cameras: prompt, lambda step, steps, n, generator: torch.full((n,), t),
                  rates={"latents": 0.01}, look=latents, cameras=None, resolution=None, views=batch, seed=seed)
    return stage, make_optimiser(stage)


def bench(prior: Prior, prompt: Prompt, rounds: int = 7, batch: int = 4, t: int = 500, seed: int = 0) -> dict[str, dict]:
    """Every rule once a round, the first being for warming up; with one thread, so that nothing runs beside what is timed.

    ``rules``: medians by rule and part, in milliseconds; ``ratios``: medians of ratios within a round."""
    device = prior.device
    plans = {name: plan(name, prior, prompt, batch, t, seed) for name in rules.RULES}
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in plans}
    for step in range(rounds + 1):
        for name, (stage, adam) in plans.items():
            clock = Clock(device)
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            with threads(1), ExitStack() as stack:
                watch(clock, stack, prior, stage.rule)
                start = clock.now()
                advance(stage, adam, step)
                whole = clock.now() - start
            row = {"step": whole} | {part: clock.ms[part] for part in PARTS} | clock.rows
            row["rest"] = whole - sum(clock.ms.values())
            if device.type == "cuda":
                row["peak_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
            seen[name].append(row)
    seen = {name: rows[1:] for name, rows in seen.items()}  # without the warm-up

    def ratio(a: str, b: str, *parts: str) -> float:
        return median(sum(x[p] for p in parts) / sum(y[p] for p in parts) for x, y in zip(seen[a], seen[b], strict=True))

    return {"rules": {name: {key: median(row[key] for row in rows) for key in rows[0]} for name, rows in seen.items()},
            "ratios": {f"{a} / {b}, {what}": ratio(a, b, *parts) for a, b, what, parts in (
                ("VSD", "VDM", "fit", ["fit"]), ("LODS", "VDM", "fit", ["fit"]),
                ("VSD", "VDM", "fit and predict", ["fit", "predict"]), ("LODS", "VDM", "fit and predict", ["fit", "predict"]),
                ("VSD", "VDM", "step", ["step"]), ("LODS", "VDM", "step", ["step"]), ("VDM", "SDS", "step", ["step"]))}}


def table(result: dict[str, dict]) -> str:
    """What :func:`bench` found, to read."""
    columns = {c: ".0f" if c in ("rows", "back") else ".1f" for c in next(iter(result["rules"].values()))}
    lines = ["ms a step      " + "".join(f"{c:>9}" for c in columns)]
    lines += [f"{name:15s}" + "".join(f"{row[c]:9{digits}}" for c, digits in columns.items())
              for name, row in result["rules"].items()]
    return "\n".join([*lines, "", *(f"{name:32s} {value:6.2f}" for name, value in result["ratios"].items())])


def main(arguments: list[str] | None = None) -> int:
    """0, or 2 where --sd21 finds no CUDA GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sd21", action="store_true", help="at the shape of Stable Diffusion 2.1 base, on a CUDA GPU")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args(arguments)
    if args.sd21 and not torch.cuda.is_available():
        print("bench_rules: --sd21 needs a CUDA GPU, and torch finds none here; leave it out for the bundled prior on the CPU",
              file=sys.stderr)
        return 2
    if args.sd21:
        (prior, prompt), processor, shape = sd21_prior(seed=args.seed), torch.cuda.get_device_name(), "SD 2.1 base, random"
    else:
        (prior, prompt), processor, shape = toybox(), platform.machine(), "toybox"
    result = bench(prior, prompt, args.rounds, seed=args.seed)
    print(f"{shape}, {prior.resolution} px, batch 4, t = 500, {prior.unet.dtype}; torch {torch.__version__}, {processor}, "
          f"one thread; median of {args.rounds} rounds\n\n{table(result)}")
    if args.json:
        write_json(args.json, {
            "date": str(date.today()), "torch": torch.__version__, "processor": processor, "threads": 1,
            "seed": args.seed, "rounds": args.rounds, "prior": shape, "resolution": prior.resolution,
            "dtype": str(prior.unet.dtype), "batch": 4, "t": 500} | result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
