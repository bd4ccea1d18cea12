"""What meshes cost, and how that grows with their own work: ``python -m benchmarks.bench_mesh``."""
import argparse
import platform
import time
from datetime import date
from functools import partial
from pathlib import Path

import torch

from benchmarks.bench_splat import exponent
from dreamlab.cameras import orbit
from dreamlab.files import write_json
from dreamlab.mesh import lattice, marching_tetrahedra
from dreamlab.render.mesh import antialias, rasterize
from dreamlab.threads import threads

CELLS, RESOLUTIONS = {"1k": 8, "5k": 17, "20k": 35}, (64, 128, 256)  # a sphere's faces, by the cells a side of its grid
GRIDS = (32, 48, 64, 96)  # cells a side


def ball(cells: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and places of a sphere."""
    places = lattice(cells + 1, 0.8)
    return places.norm(dim=-1) - 0.6, places


def median(work, repeats: int = 7) -> float:
    """Milliseconds, after one warm-up."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[repeats // 2] * 1e3


def picture(vertices: torch.Tensor, faces: torch.Tensor, resolution: int) -> None:
    """One view forward and backward, its attributes and silhouettes."""
    vertices = vertices.detach().requires_grad_()
    seen = rasterize(vertices, faces, orbit(30), resolution)
    antialias(seen.interpolate(vertices), seen).square().sum().backward()


def surface(cells: int) -> None:
    """A surface from its values, forward and backward."""
    values, places = ball(cells)
    marching_tetrahedra(values.requires_grad_(), places)[0].square().sum().backward()


def bench() -> dict[str, float]:
    meshes = {name: marching_tetrahedra(*ball(cells)) for name, cells in CELLS.items()}
    ms = {(name, r): median(partial(picture, *meshes[name], r)) for name in meshes for r in RESOLUTIONS}
    out = {f"ms forward + backward, {name} faces, {r} px": value for (name, r), value in ms.items()}
    sizes = [len(faces) for _, faces in meshes.values()]
    for r in RESOLUTIONS:
        out[f"growth exponent in faces, {r} px"] = exponent(sizes, [ms[name, r] for name in meshes])
    pixels = [r**2 for r in RESOLUTIONS]
    for name in meshes:
        out[f"growth exponent in pixels, {name} faces"] = exponent(pixels, [ms[name, r] for r in RESOLUTIONS])
    by_grid = [median(partial(surface, n)) for n in GRIDS]
    out |= {f"ms marching tetrahedra forward + backward, {n}³ cells": v for n, v in zip(GRIDS, by_grid, strict=True)}
    return out | {"growth exponent in cells": exponent([n**3 for n in GRIDS], by_grid)}


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--json", type=Path, help="also write the figures to this file")
    path = arguments.parse_args().json
    with threads(1):
        cost = bench()
    for name, value in cost.items():
        print(f"{name:56s} {value:8.2f}")
    if path:
        write_json(path, {"date": str(date.today()), "torch": torch.__version__, "processor": platform.machine(), "threads": 1,
                          "cost": cost})


if __name__ == "__main__":
    main()
