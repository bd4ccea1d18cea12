"""Make the bundled weights again from nothing: ``dreamlab toybox train vae | prior | points | judge |
normals | refiner | multiview | zero123 | reconstruction``.

Every training draws its batch of step i from a generator seeded by (seed, i), keeps a checkpoint and continues from it,
and runs on a GPU when there is one. On two CPU cores the prior takes hours; on a GPU minutes.
"""
import time
from pathlib import Path
from typing import Annotated

from dreamlab.checks import Count, Name, Range, checked, shown
from dreamlab.files import try_writing
from dreamlab.toybox.dataset import Views
from dreamlab.toybox.training.adapters import train_normals, train_refiner
from dreamlab.toybox.training.judge import train_judge
from dreamlab.toybox.training.multiview import train_multiview
from dreamlab.toybox.training.points import train_points
from dreamlab.toybox.training.prior import train_prior, train_vae
from dreamlab.toybox.training.reconstruction import train_reconstruction
from dreamlab.toybox.training.zero123 import train_zero123


@checked
def main(name: str, out: Name | Path = "runs/toybox", per_kind: Count = 480,
         steps: Annotated[int, Range(1, 10**7)] | None = None, batch: Count | None = None) -> Path:
    """Train the part ``name``; ``out`` keeps views, checkpoints and results. None: steps and batch of the bundled weights."""
    parts = {"vae": train_vae, "prior": train_prior, "points": train_points, "judge": train_judge, "normals": train_normals,
             "refiner": train_refiner, "multiview": train_multiview, "zero123": train_zero123,
             "reconstruction": train_reconstruction}
    if name not in parts:
        raise ValueError(f"no part {shown(name)} to train; choose one of: {', '.join(parts)}")
    settings = {key: value for key, value in (("steps", steps), ("batch", batch)) if value is not None}
    out, start = Path(out), time.time()
    try_writing(out)
    views = None  # of its own, or none
    if name in ("vae", "prior", "judge"):
        views = Views.make(per_kind, cache=out / f"views_{per_kind}.safetensors")
    if name == "prior" and not (out / "vae").exists():
        train_vae(out, views)
    folder = parts[name](out, views, **settings)
    print(f"{name}: wrote {folder} after {(time.time() - start) / 60:.0f} min")
    return folder
