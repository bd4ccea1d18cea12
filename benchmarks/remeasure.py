"""Measure again what runs have kept, with today's instruments: nothing needs to be run again because an instrument was mended.

``python -m benchmarks.remeasure RESULTS.csv`` reads each row's scene from ``runs/sweep`` (``--keep``), where its sweep left it,
and writes the measures into the row; ``findings_NAME.json`` likewise from the pictures in ``runs/`` beside it
(:mod:`benchmarks.findings`). All other columns stay, and so do rows whose scene is not there, which are named and make the exit
status 1. ``--out`` writes to another file. For the rule book ``python -m benchmarks.rule_book --rules`` does the same.
"""
import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from benchmarks.findings import keep
from dreamlab import scenes
from dreamlab.priors.diffusion import DiffusionPrior
from dreamlab.report import against_renders, against_truth
from dreamlab.sweep import kept, read, write


def again(row: dict, found: dict) -> dict:
    """The row with what was found in the place of what it had: before what came after the measures, new ones included."""
    place = min((i for i, name in enumerate(row) if name in found), default=len(row))
    pairs = list(row.items())
    return dict(pairs[:place]) | found | dict(pair for pair in pairs[place:] if pair[0] not in found)


def measures(file: Path, prompt: str) -> dict:
    """What a run's row says of the scene that it kept."""
    flat = scenes.notes(file)["scene"] == "Picture"
    prior = DiffusionPrior.load("toybox") if flat else None
    scene = scenes.load(file, prior)
    if flat:
        return against_renders(scene.render().rgb.detach().cpu(), prompt, prior if "latents" in scene.parameters() else None)
    return {name: value for name, value in against_truth(scene, prompt).items() if name != "front_scores"}


def sweep(path: Path, folder: Path) -> tuple[list[dict], list[str]]:
    """The rows of a sweep measured again, and the names of those whose scene is not there."""
    rows, missing = read(path), []
    for i, row in enumerate(tqdm(rows, desc=path.stem)):
        file = kept(folder, row["method"], row["prompt"], row["seed"], row["tag"]) / "scene.safetensors"
        if "error" in row or not file.exists():
            missing += [] if "error" in row else [f"{row['method']}, {row['prompt']!r}, seed {row['seed']}: no {file}"]
            continue
        rows[i] = again(row, measures(file, row["prompt"]))
    return rows, missing


def findings(path: Path) -> tuple[dict, list[str]]:
    """The same of an experiment's pictures, four in a strip."""
    known, missing, prior = json.loads(path.read_text()), [], DiffusionPrior.load("toybox")
    for i, row in enumerate(tqdm(known["rows"], desc=path.stem)):
        file = path.parent / "runs" / f"{path.stem.removeprefix('findings_')}-{row['variant']}-{row['seed']}.png"
        if not file.exists():
            missing.append(f"{row['variant']}, seed {row['seed']}: no {file}")
            continue
        strip = torch.from_numpy(np.array(Image.open(file).convert("RGB"))) / 255
        known["rows"][i] = again(row, against_renders(torch.stack(strip.split(strip.shape[0], 1)), row["prompt"], prior))
    return known, missing


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("results", type=Path, help="CSV of a sweep, or findings_NAME.json")
    arguments.add_argument("--keep", type=Path, default=Path("runs/sweep"), help="where the sweep left its scenes")
    arguments.add_argument("--out", type=Path, help="default: the same file")
    args = arguments.parse_args()
    if args.results.suffix == ".json":
        found, missing = findings(args.results)
        keep(args.out or args.results, found)
    else:
        found, missing = sweep(args.results, args.keep)
        write(args.out or args.results, found)
    for line in missing:
        print(f"not measured again: {line}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
