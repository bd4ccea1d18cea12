"""SIGKILL a run at random moments, resume it, compare bytes: ``python -m benchmarks.kill_resume --method field-to-gaussians``.

An uninterrupted run is timed first. Each kill then strikes a fresh folder, one in each of ``--kills`` equal spans of that time,
and the run is resumed to its end. A span that has a hand-over in it, between the scene of one part and the start of the next,
is struck there. Moments are counted from the last file that was there by then, however fast the computer is meanwhile. Exit
code 1 unless every file is the same, checkpoints too.
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

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())

    def file(self, part: str, name: str) -> str:
        return str(self.asked.home(self.folder, part).relative_to(self.folder) / name)

    def where(self) -> str:
        """What the run was at, by the files it has left."""
        names, found = list(self.asked.parts), self.files()
        for before, name in zip([None, *names], names, strict=False):
            if self.file(name, "scene.safetensors") in found:
                continue
            if self.file(name, "start.safetensors") not in found:
                return f"hand-over from {before} to {name}" if before else "before the first file"
            if self.file(name, "settings.json") in found:
                return f"{name}, drawing"
            if (checkpoint := self.file(name, "checkpoint.safetensors")) in found:
                return f"{name}, after the checkpoint of step {read(self.folder / checkpoint, tensors=False)[0]}"
            return f"{name}, before its first checkpoint"
        return "the end"

    def digests(self) -> dict[str, str]:
        return {name: hashlib.sha256((self.folder / name).read_bytes()).hexdigest() for name in self.files()}


def uninterrupted(trial: Trial) -> tuple[float, dict[str, float]]:
    """Seconds of the whole run, and after how many each of the files that it leaves was there."""
    begin, process, seen = time.perf_counter(), trial.start(), {}
    while process.poll() is None:
        for name in trial.files():
            seen.setdefault(name, time.perf_counter() - begin)
        time.sleep(0.01)
    trial.succeed(process)
    return time.perf_counter() - begin, {name: seen[name] for name in trial.files() if name in seen}


def strike(trial: Trial, after: str | None, rest: float) -> float | None:
    """SIGKILL ``rest`` seconds after the file ``after`` is there. Returns the seconds it ran, None if it had ended before."""
    begin, process = time.perf_counter(), trial.start()
    while after and process.poll() is None and not (trial.folder / after).exists():
        time.sleep(0.005)
    try:
        process.wait(rest)
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
        seconds, seen = uninterrupted(whole)
        right, names = whole.digests(), list(asked.parts)
        handovers = [(seen[whole.file(a, "scene.safetensors")], seen[whole.file(b, "start.safetensors")])
                     for a, b in zip(names, names[1:], strict=False)]
        print(f"{args.method}, uninterrupted: {seconds:.0f} s, {len(right)} files", flush=True)
        print("kill   after     it was at                                         files that differ", flush=True)
        for i in range(args.kills):
            low, high = seconds * i / args.kills, seconds * (i + 1) / args.kills
            moment = moments.uniform(*next((h for h in handovers if low <= h[0] < high), (low, high)))
            after = max((name for name in seen if seen[name] <= moment), key=seen.get, default=None)
            rest, ran = moment - seen.get(after, 0.0), None
            while ran is None:  # a quicker run than the first had ended before: earlier then
                trial = Trial(asked, args.changes, Path(place) / f"kill-{i}-{rest:.3f}")
                ran, rest = strike(trial, after, rest), 0.8 * rest
            at = trial.where()
            trial.succeed(trial.start())
            found = trial.digests()
            wrong = sorted(name for name in right.keys() | found.keys() if right.get(name) != found.get(name))
            failed |= bool(wrong)
            print(f"{i + 1:4d} {ran:7.1f} s   {at:50s} {', '.join(wrong) or 'none'}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
