"""From a prompt of the toybox to a folder: distil, draw, measure, and say what was made and where."""
import json
import os
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm.auto import tqdm

from dreamlab import export
from dreamlab.cameras import ring
from dreamlab.metrics.truth import seen_points, truth
from dreamlab.pipelines.dreammapping import Settings, stage
from dreamlab.scenes.gaussians import Gaussians
from dreamlab.stage import run, settings_tag
from dreamlab.toybox.captions import parse
from dreamlab.toybox.objects import Toy
from dreamlab.toybox.render import render as render_truth


def dream(settings: Settings, out: Path = Path("runs")) -> Path:
    """Prompt to 3D: distil, then write turntable, contact sheet, ``.ply``, settings and metrics to a folder, and say so.

    The folder is named after the prompt and the seed. It holds a checkpoint, so the same call goes on where an earlier one
    was stopped; with other settings in the same folder the call is refused.
    """
    kind, colour = parse(settings.prompt)
    plan = stage(settings)
    name = "-".join(settings.prompt.lower().replace(",", " ").split()) + ("-ball" if settings.ball else "")
    folder = Path(out) / f"{name}-seed{settings.seed}"
    steps = run(plan, folder / "checkpoint.safetensors", tag=settings_tag(asdict(settings)))
    try:
        for _ in steps:
            pass
    except KeyboardInterrupt:
        steps.close()  # saves the checkpoint
        keep(plan.scene, settings, folder)
        raise
    keep(plan.scene, settings, folder)
    results(plan.scene, kind, colour, folder)
    return folder


def keep(scene: Gaussians, settings: Settings, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "settings.json", asdict(settings))
    export.save_ply(scene, folder / "gaussians.ply")


def results(scene: Gaussians, kind: str, colour: str, folder: Path) -> None:
    """Pictures, metrics, and the closing lines."""
    white = torch.ones(3)
    with torch.no_grad():
        frames = torch.cat([scene.render(ring(36)[i : i + 1], 256, white).rgb for i in tqdm(range(36), desc="turntable")])
        export.save_turntable(frames, folder / "turntable.gif")
        rows = [scene.render(ring(8), 128, white).rgb, render_truth(Toy(kind), colour, ring(8), 128).rgb]
    export.contact_sheet(rows, ["this run", "ground truth"]).save(folder / "contact_sheet.png")
    m = truth(scene.render, kind, colour, seen_points(scene.render))
    write(folder / "metrics.json", m.asdict())
    print(f"\nIt reads as a {m.colour} {m.kind} with {m.fronts} front{'s' * (m.fronts != 1)}. Against the truth: "
          f"IoU {m.iou:.2f}, PSNR {m.psnr:.1f} dB, view ratio {m.view_ratio:.2f}.")
    files = {"turntable.gif": "36 views, 256 px", "contact_sheet.png": "8 azimuths over the ground truth",
             "gaussians.ply": f"{len(scene.means)} Gaussians, for any 3DGS viewer", "metrics.json": "against the truth",
             "settings.json": "what was run"}
    for file, what in files.items():
        print(f"  {folder / file}  ({what})")


def write(path: Path, values: dict) -> None:
    """JSON, written aside and renamed."""
    Path(f"{path}.part").write_text(json.dumps(values, indent=2) + "\n")
    os.replace(f"{path}.part", path)
