"""The demo's quality: 8 kinds x 3 seeds against the truth, beside the same runs at 0 steps, and from a ball.

``python -m benchmarks.demo_table`` skips runs whose row is already there, so it can be stopped and started; it prints the
tables, writes ``benchmarks/results/demo_table.json`` and keeps the Gaussians under ``runs/demo_table``. Seed 0 of each kind is
its held-out colour.
"""
import argparse
import json
import time
from pathlib import Path

import torch
from tqdm.auto import tqdm

from dreamlab.demo import write
from dreamlab.export import save_ply
from dreamlab.metrics.truth import seen_points, truth
from dreamlab.pipelines.dreammapping import Settings, stage
from dreamlab.stage import run
from dreamlab.toybox.captions import caption, parse
from dreamlab.toybox.dataset import COLOUR_NAMES, KIND_NAMES
from dreamlab.toybox.objects import HELD_OUT

STARTS = {"demo": {}, "control, 0 steps": {"steps": 0}, "ball": {"ball": True}}


def prompts(seeds: int = 3) -> list[tuple[str, int]]:
    """(prompt, seed): every kind in ``seeds`` colours."""
    return [(caption(kind, COLOUR_NAMES[(3 * i + 1 + seed) % 8]), seed)
            for seed in range(seeds) for i, kind in enumerate(KIND_NAMES)]


def one(prompt: str, seed: int, changes: dict, ply: Path) -> dict:
    start = time.perf_counter()
    plan = stage(Settings(prompt, seed=seed).toy(**changes))
    for _ in run(plan, progress=False):
        pass
    seconds = time.perf_counter() - start
    scene = plan.scene
    ply.parent.mkdir(parents=True, exist_ok=True)
    save_ply(scene, ply)
    found = truth(scene.render, *parse(prompt), seen_points(scene.render))
    held_out = parse(prompt) in HELD_OUT
    return {"prompt": prompt, "seed": seed, "held_out": held_out, "seconds": round(seconds, 1), **found.asdict()}


def summary(rows: list[dict]) -> str:
    if not rows:
        return "| - " * 9 + "|"
    def mean(key):
        return sum(r[key] for r in rows) / len(rows)
    single = sum(r["fronts"] == 1 for r in rows) / len(rows)
    fronts = "/".join(str(sum(min(r["fronts"], 3) == n for r in rows)) for n in range(4))
    return (f"| {len(rows)} | {mean('iou'):.3f} | {mean('psnr'):.1f} | {mean('chamfer'):.3f} | {mean('kind_right'):.0%} | "
            f"{mean('colour_right'):.0%} | {mean('view_ratio'):.2f} | {single:.0%} ({fronts}) | "
            f"{mean('seconds'):.0f} |")


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--out", type=Path, default=Path("benchmarks/results/demo_table.json"))
    arguments.add_argument("--only", choices=STARTS, help="make one of the tables")
    arguments.add_argument("--seeds", type=int, default=3)
    args = arguments.parse_args()
    tables = json.loads(args.out.read_text()) if args.out.exists() else {}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for name, changes in STARTS.items():
        rows = tables.setdefault(name, [])
        if args.only not in (None, name):
            continue
        for prompt, seed in tqdm(prompts(args.seeds), desc=name):
            if not any((r["prompt"], r["seed"]) == (prompt, seed) for r in rows):
                ply = Path("runs/demo_table") / name / f"{prompt.replace(' ', '-')}-seed{seed}.ply"
                rows.append(one(prompt, seed, changes, ply))
                write(args.out, tables)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    for row in tables["demo"]:
        print(f"{row['prompt']:20s} seed {row['seed']}  IoU {row['iou']:.3f}  PSNR {row['psnr']:.1f}  "
              f"views {row['view_ratio']:.2f}  fronts {row['fronts']}  "
              f"{row['kind']} {row['colour']}{'  (held out)' if row['held_out'] else ''}")
    print("\n| start | runs | IoU | PSNR | Chamfer | kind | colour | view ratio | front count 1 (0/1/2/3+) | s |")
    print("|---" * 10 + "|")
    for name, rows in tables.items():
        print(f"| {name} {summary(rows)}")


if __name__ == "__main__":
    main()
