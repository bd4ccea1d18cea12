"""SIGKILL the demo at three random moments and resume: ``python -m benchmarks.kill_resume`` compares the final files.

An uninterrupted run is timed first; each kill then comes after a random share of that time.
"""
import argparse
import hashlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FILES = ("gaussians.ply", "turntable.gif", "contact_sheet.png", "metrics.json")


def start(out: Path, prompt: str, steps: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "dreamlab.cli", "dream", prompt, "--out", str(out), "--steps", str(steps)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def digest(out: Path) -> dict[str, str]:
    (folder,) = out.iterdir()
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest()[:16] for name in FILES}


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--prompt", default="a red mug")
    arguments.add_argument("--steps", type=int, default=150)
    arguments.add_argument("--seed", type=int, help="of the moments (default: a new one each time)")
    args = arguments.parse_args()
    moments = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        begin = time.perf_counter()
        if start(whole, args.prompt, args.steps).wait() != 0:
            sys.exit("the uninterrupted run failed")
        seconds = time.perf_counter() - begin
        print(f"uninterrupted: {seconds:.0f} s")
        for _ in range(3):
            process, moment = start(killed, args.prompt, args.steps), moments.uniform(0.05, 0.9) * seconds
            time.sleep(moment)
            process.send_signal(signal.SIGKILL)
            print(f"SIGKILL after {moment:.1f} s: exit code {process.wait()}")
        if start(killed, args.prompt, args.steps).wait() != 0:
            sys.exit("the resumed run failed")
        a, b = digest(whole), digest(killed)
    for name in FILES:
        print(f"{name:24s} {a[name]} {'==' if a[name] == b[name] else '!='} {b[name]}")
    if a != b:
        sys.exit("the resumed run differs")


if __name__ == "__main__":
    main()
