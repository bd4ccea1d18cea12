"""``make bench``: what a step costs and how the cost grows. Ratios and exponents are taken within one run, side by side."""
import argparse
import platform
import time
from datetime import date
from pathlib import Path

import torch

from benchmarks.bench_rules import bench as bench_rules
from benchmarks.bench_rules import table, toybox
from benchmarks.bench_splat import bench as bench_splat
from dreamlab.files import write_json
from dreamlab.methods import METHODS
from dreamlab.noise import randn, seeded
from dreamlab.stage import advance, make_optimiser
from dreamlab.threads import threads


def milliseconds(work, repeats: int = 5) -> float:
    """Median wall time of ``work()`` after one warm-up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return sorted(times)[repeats // 2] * 1e3


def bench_step() -> dict[str, float]:
    """Milliseconds of one demo step (4 views) and of its parts."""
    stage = METHODS["dreammapping"].toy["shape"].build("a red mug")
    g = seeded(0)
    cameras = stage.cameras.sample(stage.views, g)
    prompt = stage.prompts(cameras)
    x = randn((stage.views, *stage.prior.shape), g)
    t = torch.full((stage.views,), 300)
    images = torch.rand(stage.views, stage.resolution, stage.resolution, 3, generator=g, requires_grad=True)
    adam = make_optimiser(stage)

    def unet():
        with torch.no_grad():
            stage.prior.eps(x, t, prompt.positive, prompt.null)

    def encode():
        stage.prior.encode(images).sum().backward()

    def draw():
        stage.scene.render(cameras, stage.resolution, torch.ones(3)).rgb.sum().backward()

    parts = {"UNet, both conditions": unet, "VAE encode with gradient": encode, "splat forward + backward": draw,
             "U-Lite forward + backward + Adam": lambda: stage.rule.fit(x, x)}
    cost = {name: milliseconds(work) for name, work in parts.items()}
    cost["whole step"] = milliseconds(lambda: advance(stage, adam, 0))
    by_threads = {1: [], 2: []}
    for _ in range(5):  # in turn: a computer is not always equally fast
        for n, found in by_threads.items():
            with threads(n):
                found.append(milliseconds(lambda: advance(stage, adam, 0)))
    return cost | {f"whole step, threads: {n}": sorted(found)[2] for n, found in by_threads.items()}


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--json", type=Path, help="also write the figures to this file")
    path = arguments.parse_args().json
    cost = bench_step()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("part of a demo step (4 views, 64 px)      ms   share")
    for name, ms in cost.items():
        print(f"{name:36s} {ms:8.1f} {ms / cost['whole step']:7.0%}")
    print(f"with 2 threads / with 1              {cost['whole step, threads: 2'] / cost['whole step, threads: 1']:8.2f}")
    by_rule = bench_rules(*toybox())
    print(f"\n{table(by_rule)}")
    splat = bench_splat()
    print()
    for name, value in splat.items():
        print(f"{name:56s} {value:10.2f}")
    if path:
        write_json(path, {"date": str(date.today()), "torch": torch.__version__, "processor": platform.machine(),
                          "threads": torch.get_num_threads(), "step_ms": cost, "splat": splat} | by_rule)


if __name__ == "__main__":
    main()
