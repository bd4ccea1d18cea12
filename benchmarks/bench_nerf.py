"""What a radiance field costs, and how that grows with samples a ray and with levels: ``python -m benchmarks.bench_nerf``."""
import argparse
import platform
import time
from datetime import date
from pathlib import Path

import torch

from benchmarks.bench_splat import exponent
from dreamlab.cameras import orbit
from dreamlab.files import write_json
from dreamlab.noise import seeded
from dreamlab.scenes.nerf import HashGrid, NeRF

SAMPLES, LEVELS = (16, 32, 64, 128), (2, 4, 8, 16)


def milliseconds(levels: int, samples: int, resolution: int = 64, repeats: int = 5) -> float:
    """Median of one view forward and backward, after one warm-up."""
    nerf = NeRF(HashGrid(levels, 2, 2**14, 8, 1.4, seeded(0)), hidden=32, samples=samples, generator=seeded(0))
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        nerf.render(orbit(30), resolution, torch.ones(3)).rgb.square().sum().backward()
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[repeats // 2] * 1e3


def bench() -> dict[str, float]:
    over_samples = [milliseconds(4, n) for n in SAMPLES]
    over_levels = [milliseconds(n, 32) for n in LEVELS]
    out = {f"ms, 64 px, 4 levels, {n} samples": ms for n, ms in zip(SAMPLES, over_samples, strict=True)}
    out |= {f"ms, 64 px, {n} levels, 32 samples": ms for n, ms in zip(LEVELS, over_levels, strict=True)}
    return out | {"growth exponent in samples": exponent(SAMPLES, over_samples),
                  "growth exponent in levels": exponent(LEVELS, over_levels)}


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--json", type=Path, help="also write the figures to this file")
    path, cost = arguments.parse_args().json, bench()
    for name, value in cost.items():
        print(f"{name:40s} {value:8.2f}")
    if path:
        write_json(path, {"date": str(date.today()), "torch": torch.__version__, "processor": platform.machine(),
                          "threads": torch.get_num_threads(), "cost": cost})


if __name__ == "__main__":
    main()
