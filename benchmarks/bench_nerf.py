"""What a radiance field costs along a run, against all samples and gathered corners, and how that grows:
``python -m benchmarks.bench_nerf``."""
import argparse
import platform
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.bench_splat import exponent
from dreamlab.cameras import Orbit, orbit
from dreamlab.files import write_json
from dreamlab.methods import METHODS
from dreamlab.noise import seeded
from dreamlab.render.volume import volume
from dreamlab.scenes.nerf import HashGrid, NeRF
from dreamlab.stage import run
from dreamlab.threads import threads
from dreamlab.types import Render

SAMPLES, PIXELS, LEVELS, STEPS = (16, 32, 64, 128), (32, 64, 128, 256), (2, 4, 8, 16), (0, 60, 160)


class Plain(NeRF):
    """The definition, which is what the field was drawn by before: every sample, eight gathered corners for every level."""

    def encode(self, points: Tensor) -> Tensor:
        x = ((points / self.radius + 1) / 2).clamp(0, 1)
        return torch.cat([self.grid.hashed(x, n, table)
                          for n, table in zip(self.grid.resolutions, self.grid.tables, strict=True)], -1)

    def field(self, points: Tensor) -> tuple[Tensor, Tensor]:
        h, away = self.encode(points), points.norm(dim=-1)
        raw = self.mlps["density"](h)[:, 0] + self.bias * (1 - away / self.width)
        return torch.nn.functional.softplus(raw) * (away <= self.radius), self.mlps["color"](h).sigmoid()

    def render(self, cameras, resolution, background, generator=None) -> Render:
        return volume(self.field, cameras, resolution, background, self.samples, self.radius, generator)


def side_by_side(works: list[Callable[[], object]], repeats: int = 7) -> list[float]:
    """Least milliseconds of each, taken in turn after a warm-up: the computer has other things to do, and never helps."""
    least = [float("inf")] * len(works)
    for _ in range(repeats + 1):
        for i, work in enumerate(works):
            start = time.perf_counter()
            work()
            least[i] = min(least[i], time.perf_counter() - start)
    return [1e3 * seconds for seconds in least]


def step_of(nerf: NeRF) -> Callable[[], Tensor]:
    """Draw four training views of 64 pixels, jittered, and differentiate them; returns the picture."""
    cameras, towards = Orbit().sample(4, seeded(3)), torch.rand(4, 64, 64, 3, generator=seeded(1))

    def work() -> Tensor:
        rgb = nerf.render(cameras, 64, torch.full((3,), 0.7), seeded(5)).rgb
        torch.autograd.grad((rgb * towards).sum(), [*nerf.parameters().values()])
        return rgb.detach()
    return work


def along_a_run() -> dict[str, float]:
    """The toybox's field after some steps: today's picture and gradient and the definition's, on the same leaves."""
    stage, out = METHODS["field"].toy["shape"].build("a red mug"), {}

    def measure(done: int) -> None:
        scene = stage.scene
        plain, fast = (step_of(kind.rebuild(scene.config(), scene.state_dict())) for kind in (Plain, NeRF))
        before, now = side_by_side([plain, fast])
        error = (plain() - fast()).square().mean()
        out.update({f"ms, step {done}, all samples, gathered": before, f"ms, step {done}": now,
                    f"times faster, step {done} (bar: 3)": before / now,
                    f"dB to all samples, step {done} (bar: 55)": -10 * error.log10().item()})

    measure(0)
    for step in run(stage, progress=False):
        if step.step + 1 in STEPS:
            measure(step.step + 1)
        if step.step + 1 == STEPS[-1]:
            return out
    return out


def milliseconds(levels: int, samples: int, resolution: int = 64) -> float:
    """One view forward and backward."""
    nerf = NeRF(HashGrid(levels, 2, 2**14, 8, 1.4, seeded(0)), hidden=32, samples=samples, generator=seeded(0))
    return side_by_side([lambda: nerf.render(orbit(30), resolution, torch.ones(3)).rgb.square().sum().backward()])[0]


def bench() -> dict[str, float]:
    with threads(1):
        out = along_a_run()
        over_samples, over_levels = [milliseconds(4, n) for n in SAMPLES], [milliseconds(n, 32) for n in LEVELS]
        over_pixels = [milliseconds(4, 32, n) for n in PIXELS]
    out |= {f"ms, 64 px, 4 levels, {n} samples": ms for n, ms in zip(SAMPLES, over_samples, strict=True)}
    out |= {f"ms, {n} px, 4 levels, 32 samples": ms for n, ms in zip(PIXELS, over_pixels, strict=True)}
    out |= {f"ms, 64 px, {n} levels, 32 samples": ms for n, ms in zip(LEVELS, over_levels, strict=True)}
    return out | {"growth exponent in samples (bar: 1.1)": exponent(SAMPLES, over_samples),
                  "growth exponent in pixels (bar: 1.1)": exponent([n**2 for n in PIXELS], over_pixels),
                  "growth exponent in levels": exponent(LEVELS, over_levels)}


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--json", type=Path, help="also write the figures to this file")
    path, cost = arguments.parse_args().json, bench()
    for name, value in cost.items():
        print(f"{name:44s} {value:8.2f}")
    if path:
        write_json(path, {"date": str(date.today()), "torch": torch.__version__, "processor": platform.machine(),
                          "threads": 1, "cost": cost})


if __name__ == "__main__":
    main()
