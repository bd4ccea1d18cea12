"""Does the library make what an earlier commit made? ``python -m benchmarks.same_as 7785ace`` runs both and compares the bits.

Two commands, ``dreamlab dream "a red mug"`` and ``--scene picture --rule SDS``, with one seed and ``--steps`` of both. Since
that commit every random stream has a name of its own; here alone the start and U-Lite draw from the old ones, so that all else
must be equal: the leaves of the final scene, the moments of Adam, the operator.
"""
import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

import dreamlab.pipeline
import dreamlab.rules.vdm
from dreamlab.cli import main as dreamlab_main
from dreamlab.noise import seeded

ROOT = Path(__file__).parents[1]
RUNS = {"Gaussians": ([], 0), "pictures": (["--scene", "picture", "--rule", "SDS"], -1)}  # options, the start's old stream


def checkpoint(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of the one run in a folder."""
    path, = folder.glob("*/checkpoint.safetensors")
    return load_file(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as place:
        old = Path(place) / "old"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(old)], check=True)
        subprocess.run(["git", "checkout", "-q", args.commit], check=True, cwd=old)
        for name, (options, step) in RUNS.items():
            command = ["dream", "a red mug", "--steps", str(args.steps), "--seed", str(args.seed), *options]
            subprocess.run([sys.executable, "-m", "dreamlab.cli", *command, "--out", f"{place}/{name}-old"], check=True,
                           cwd=old, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            dreamlab.pipeline.stream = lambda seed, stream, index=0, step=step: seeded(seed, step)
            dreamlab.rules.vdm.stream = lambda seed, stream, index=0: None
            if dreamlab_main([*command, "--out", f"{place}/{name}-new"]):
                return 1
            a, b = (checkpoint(Path(place) / f"{name}-{which}") for which in ("old", "new"))
            equal = a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
            failed |= not equal
            print(f"{name}: {len(a)} tensors after {args.steps} steps, {'equal bit for bit' if equal else 'DIFFERENT'}")
            for key in sorted(a.keys() ^ b.keys() | {k for k in a.keys() & b.keys() if not torch.equal(a[k], b[k])}):
                print(f"  {key}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
