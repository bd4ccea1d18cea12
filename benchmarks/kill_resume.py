"""SIGKILL a run at random moments, resume it, compare bytes: ``python -m benchmarks.kill_resume --method field-to-gaussians``.

An uninterrupted run is timed first. Each kill then strikes a fresh folder, one in each of ``--kills`` equal spans of that time,
and the run is resumed to its end. A span that has a hand-over in it, between the scene of one part and the start of the next,
is struck there. Exit code 1 unless every file is the same, checkpoints too.
"""
import argparse
import hashlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from dreamlab.methods import method
from dreamlab.pipeline import Asked
from dreamlab.runs import folder_name
from dreamlab.settings import assignment
from dreamlab.stage import read


@dataclass
class Trial:
    """One run in a folder of its own: ``out`` is what the command is given, ``folder`` what it fills."""

    asked: Asked
    changes: list[str]
    out: Path

    def __post_init__(self):
        self.folder = self.out / folder_name(self.asked)

    def start(self) -> subprocess.Popen:
        self.out.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "dreamlab.cli", "dream", self.asked.prompt, "--method", self.asked.method.name,
                   "--seed", str(self.asked.seed), "--out", str(self.out), *(x for c in self.changes for x in ("--set", c))]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=self.log.open("w"))

    @property
    def log(self) -> Path:
        return self.out / "log"

    def succeed(self, process: subprocess.Popen) -> None:
        if process.wait() != 0:
            sys.exit(f"the run in {self.out} failed:\n{self.log.read_text()[-2000:]}")

    def has(self, part: str, file: str) -> bool:
        return (self.asked.home(self.folder, part) / f"{file}.safetensors").exists()

    def where(self) -> str:
        """What the run was at, by the files it has left."""
        names = list(self.asked.parts)
        for before, name in zip([None, *names], names, strict=False):
            if self.has(name, "scene"):
                continue
            if not self.has(name, "start"):
                return f"hand-over from {before} to {name}" if before else "before the first file"
            if not self.has(name, "checkpoint"):
                return f"{name}, before its first checkpoint"
            home = self.asked.home(self.folder, name)
            done = read(home / "checkpoint.safetensors", tensors=False)[0]
            return f"{name}, drawing" if (home / "settings.json").exists() else f"{name}, after the checkpoint of step {done}"
        return "the end"

    def digests(self) -> dict[str, str]:
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def uninterrupted(trial: Trial) -> tuple[float, dict[str, tuple[float, float]]]:
    """Seconds of the whole run, and when each hand-over began and ended, by the name of the part before it."""
    names, begin, seen = list(trial.asked.parts), time.perf_counter(), {}
    process = trial.start()
    while process.poll() is None:
        for name in names:
            for file in ("start", "scene"):
                if (name, file) not in seen and trial.has(name, file):
                    seen[name, file] = time.perf_counter() - begin
        time.sleep(0.01)
    trial.succeed(process)
    handovers = {a: (seen[a, "scene"], seen[b, "start"]) for a, b in zip(names, names[1:], strict=False)}
    return time.perf_counter() - begin, handovers


def strike(trial: Trial, moment: float, after: str | None = None) -> float | None:
    """SIGKILL after ``moment`` seconds, from when the part ``after`` is done if one is named. Returns the seconds that it ran,
    None if it had ended before."""
    begin, process = time.perf_counter(), trial.start()
    while after and process.poll() is None and not trial.has(after, "scene"):
        time.sleep(0.005)
    try:
        process.wait(moment)
        return None
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return time.perf_counter() - begin


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompt", default="a red mug")
    parser.add_argument("--method", default="dreammapping")
    parser.add_argument("--set", metavar="PATH=VALUE", action="append", default=[], dest="changes")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, help="of the moments (default: a new one each time)")
    args = parser.parse_args()
    asked = method(args.method).ask(args.prompt, changes=dict(map(assignment, args.changes)))
    moments, failed = random.Random(args.seed), False
    with tempfile.TemporaryDirectory() as place:
        whole = Trial(asked, args.changes, Path(place) / "whole")
        seconds, handovers = uninterrupted(whole)
        right = whole.digests()
        print(f"{args.method}, uninterrupted: {seconds:.0f} s, {len(right)} files", flush=True)
        print("kill   after     it was at                                         files that differ", flush=True)
        for i in range(args.kills):
            span = seconds * i / args.kills, seconds * (i + 1) / args.kills
            after = next((part for part, (begin, _) in handovers.items() if span[0] <= begin < span[1]), None)
            low, high = (0.0, handovers[after][1] - handovers[after][0]) if after else span
            ran = None
            while ran is None:  # a quicker run than the first had ended before: earlier then
                trial = Trial(asked, args.changes, Path(place) / f"kill-{i}-{high:.3f}")
                ran = strike(trial, moments.uniform(low, high), after)
                low, high = 0.9 * low, 0.9 * high
            at = trial.where()
            trial.succeed(trial.start())
            found = trial.digests()
            wrong = sorted(name for name in right.keys() | found.keys() if right.get(name) != found.get(name))
            failed |= bool(wrong)
            print(f"{i + 1:4d} {ran:7.1f} s   {at:50s} {', '.join(wrong) or 'none'}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
