"""Make the bundled weights again from nothing: ``dreamlab toybox train vae | prior | points | judge``.

Every training draws its batch of step i from a generator seeded by (seed, i), keeps a checkpoint and continues from it,
and runs on a GPU when there is one. On two CPU cores the prior takes hours; on a GPU minutes.
"""
import time
from pathlib import Path

from dreamlab.toybox.dataset import Views
from dreamlab.toybox.training.judge import train_judge
from dreamlab.toybox.training.points import train_points
from dreamlab.toybox.training.prior import train_prior, train_vae


def main(name: str, out: str | Path = "runs/toybox", per_kind: int = 480, **settings) -> Path:
    """Train the part ``name``; ``out`` keeps views, checkpoints and results."""
    parts = {"vae": train_vae, "prior": train_prior, "points": train_points, "judge": train_judge}
    if name not in parts:
        raise ValueError(f"no part {name!r} to train; choose one of: {', '.join(parts)}")
    if (steps := settings.get("steps", 1)) < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    out, start = Path(out), time.time()
    views = Views.make(per_kind, cache=out / f"views_{per_kind}.safetensors")
    if name == "prior" and not (out / "vae").exists():
        train_vae(out, views)
    folder = parts[name](out, views, **settings)
    print(f"{name}: wrote {folder} after {(time.time() - start) / 60:.0f} min")
    return folder
