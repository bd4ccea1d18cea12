"""Many runs from one small table: prompts x methods x seeds, a row of results a run.

The table is TOML. ``[[runs]]`` pair a prompt with seeds; ``[methods.NAME]`` lists settings to change, by the names that
``dreamlab dream --set`` knows, of the method that ``base`` names (:mod:`dreamlab.methods`; "dreammapping" unless given);
``[settings]`` are changed first, for every method; ``tier`` is "toy" or "paper"::

    tier = "toy"
    runs = [{ prompt = "a red mug", seeds = [0, 1] }, { prompt = "a blue duck", seeds = [0] }]
    [settings]
    steps = 120
    rule.guidance = 7.5
    [methods.SDS]
    rule = "SDS"
    [methods."VDM+DCA"]
    [methods."VSD on a field"]
    base = "field"
    rule = "VSD"
    "rule.critic_rate" = 1e-3

The whole table is checked before the first run. A run whose row is there is not run again, and one that was interrupted goes on
from its checkpoint. A run that fails, for want of memory or of its prior's weights too, is said as it fails and has a row with
its ``error``; the others go on, and it is tried again without that row, or with other settings.
"""
import csv
import re
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from dreamlab.checks import Name, checked, fits, shown
from dreamlab.files import sweep_strays, try_writing, writing
from dreamlab.memory import refused
from dreamlab.methods import method
from dreamlab.pipeline import Asked
from dreamlab.priors.diffusion import card_of
from dreamlab.report import SHEET, SIDE, ready
from dreamlab.runs import measure
from dreamlab.settings import flat

WORDS = ("method", "prompt", "tag", "error")  # columns of text, whatever it looks like
KEY = ("method", "prompt", "seed")


@dataclass(frozen=True)
class Job:
    """One run: its name in the table, and what is asked for."""

    method: str
    asked: Asked

    @property
    def key(self) -> tuple[str, str, int]:
        return self.method, self.asked.prompt, self.asked.seed

    @property
    def tag(self) -> str:
        return self.asked.tag(list(self.asked.parts)[-1])


@checked
def jobs(table: dict) -> list[Job]:
    """The runs of a table, prompt by prompt. ValueError for what it does not know, before anything is run."""
    if unknown := set(table) - {"tier", "runs", "settings", "methods"}:
        raise ValueError(f"a table has tier, runs, settings and methods, and not {shown(min(unknown))}: rename it")
    if (tier := table.get("tier", "toy")) not in ("toy", "paper"):
        raise ValueError(f'tier must be "toy" or "paper", got {shown(tier)}: choose one')
    runs, methods, common = table.get("runs"), table.get("methods"), table.get("settings", {})
    for name, value, good in (("runs", runs, isinstance(runs, list) and runs), ("settings", common, isinstance(common, dict)),
                              ("methods", methods, fits(methods, dict[str, dict]) and methods)):
        if not good:
            raise ValueError('a table needs runs, such as [{ prompt = "a red mug", seeds = [0] }], and at least one '
                             f"[methods.NAME]; [settings] may give what all share; got {name} {shown(value)}: change {name}")
    if odd := [name for name in methods if not (name.strip() and name.isprintable() and len(name) <= 80)]:
        raise ValueError(f"a method's name is 1 to 80 letters that a file can hold, got {odd[0][:100]!r}: rename it")
    found = []
    for line in runs:
        seeds = line.get("seeds") if isinstance(line, dict) and line.keys() == {"prompt", "seeds"} else None
        if not (isinstance(seeds, list) and seeds and {type(s) for s in seeds} == {int} and type(line["prompt"]) is str):
            raise ValueError(f'runs are such as {{ prompt = "a red mug", seeds = [0, 1] }}, got {shown(line)}: write them so')
        for seed in seeds:
            found += [Job(name, ask(name, changes, common, line["prompt"], tier, seed)) for name, changes in methods.items()]
    for job in found:
        for part in job.asked.parts.values():
            ready(job.asked.prompt, card_of(part.prior))
    for key, times in Counter(job.key for job in found).items():
        if times > 1:
            raise ValueError(f"a table asks for each run once, got {key} {times} times: remove the others")
    return found


def ask(name: str, changes: dict[str, Any], common: dict[str, Any], prompt: str, tier: str, seed: int) -> Asked:
    """What a table asks of one method; what is wrong is said with the method's name."""
    changes = dict(changes)
    try:
        base = changes.pop("base", "dreammapping")
        if not isinstance(base, str):
            raise ValueError(f"base must be the name of a method, got {base!r}: see `dreamlab methods`")
        own = flat(changes)
        both = {path: value for path, value in flat(common).items() if path not in own} | own
        return method(base).ask(prompt, tier, seed, both)
    except ValueError as error:
        raise ValueError(f"method {name!r}: {error}") from error


def one(job: Job, folder: Path | None = None) -> tuple[dict, dict[str, bytes]]:
    """Run a job, in a folder where it leaves its checkpoints. Its row, with an ``error`` if it fails, and files to keep."""
    row = {"method": job.method, "prompt": job.asked.prompt, "seed": job.asked.seed, "tag": job.tag}
    try:
        with tempfile.TemporaryDirectory() as own:
            found, files = measure(job.asked, Path(folder or own))
        return row | found, files
    except (ValueError, FileNotFoundError, FloatingPointError, RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not refused(error):
            raise
        return row | {"error": str(error).partition("\n")[0], "date": str(date.today())}, {}


def read(path: Path) -> list[dict]:
    """The rows of a CSV that :func:`sweep` wrote, with numbers as numbers, truths as truths and empty cells left out.

    ValueError for another CSV, or a damaged one, with its line.
    """
    def value(text: str):
        if text in ("True", "False"):
            return text == "True"
        for kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                pass
        return text

    rows, seen = [], set()
    try:
        with open(path, newline="", encoding="utf-8") as file:
            table = csv.DictReader(file, strict=True)
            if missing := {*KEY, "tag"} - set(table.fieldnames or ()):
                raise ValueError(f"it is no table of a sweep, it has no column {', '.join(sorted(missing))}")
            if len(set(table.fieldnames)) != len(table.fieldnames):
                raise ValueError("it has a column twice")
            for row in table:
                if None in row or None in row.values():
                    raise ValueError(f"line {table.line_num} has another number of cells than the first")
                found = {k: v if k in WORDS else value(v) for k, v in row.items() if v != ""}
                if type(found.get("seed")) is not int or not all(found.get(name) for name in ("method", "prompt", "tag")):
                    raise ValueError(f"line {table.line_num} lacks a method, a prompt, a tag or a seed that is a whole number")
                if (key := tuple(found[name] for name in KEY)) in seen:
                    raise ValueError(f"line {table.line_num} is a second row of {key}")
                seen.add(key)
                rows.append(found)
    except (ValueError, OSError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read, {error}: mend it, or name another file") from error
    return rows


def write(path: Path, rows: list[dict]) -> None:
    """Rows as CSV, a column for whatever any of them has; written aside and renamed."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with writing(path) as part, open(part, "w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def kept(keep: Path, method: str, prompt: str, seed: int, tag: str) -> Path:
    """The folder in ``keep`` with a run's files."""
    name = re.sub(r"[^\w.+]+", "-", f"{method}-{prompt}-{seed}-{tag}")
    return Path(keep) / (name if len(name.encode()) < 200 else f"{name[:40]}-{seed}-{tag}")  # a file's name has 255 bytes


def sheet(rows: list[dict], out: Path, keep: Path = Path("runs/sweep"), views: Sequence[int] = (0, 2, 4)) -> None:
    """One picture of a sweep, by the suffix of ``out`` a ``.webp`` or ``.png``: a row a method, and for each prompt and seed
    the given ones of a run's eight views (front, left side and back), of ``SIDE`` pixels. A run without pictures is white."""
    methods, runs = (list(dict.fromkeys(map(key, rows))) for key in (lambda r: r["method"], lambda r: (r["prompt"], r["seed"])))
    whole = np.full((len(methods), SIDE, len(runs), len(views), SIDE, 3), 255, np.uint8)
    for row in rows:
        if (file := kept(keep, row["method"], row["prompt"], row["seed"], row["tag"]) / "views.webp").exists():
            found = np.array(Image.open(file).convert("RGB")).reshape(SIDE, SHEET, SIDE, 3)[:, list(views)]
            whole[methods.index(row["method"]), :, runs.index((row["prompt"], row["seed"]))] = found
    picture = Image.fromarray(whole.reshape(len(methods) * SIDE, -1, 3))
    with writing(out) as part:
        picture.save(part, Path(out).suffix[1:].upper(), quality=80, method=6)


@checked
def sweep(table: Path | Name, out: Path | Name, scheduler: str | None = None,
          keep: Path | Name = Path("runs/sweep")) -> list[dict]:
    """Run what a table asks for and ``out`` does not have yet. Rows go to ``out`` as they come, files to folders in ``keep``.

    One after the other in this process, or on the workers of the Dask ``scheduler`` at an address such as
    "tcp://host:8786" (needs the ``sweep`` extra; workers need dreamlab installed, and no common disk). A worker keeps no
    checkpoint, so what it was at begins anew if it is lost; start workers with one thread, one to a GPU. One sweep at a time
    may write ``out``; two would lose each other's rows. ``seconds`` is left out of the row of a resumed run. ValueError
    where ``out`` has a row of other settings under the same name. Returns the rows, those with an ``error`` included.
    """
    try:
        asked = tomllib.loads(Path(table).read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise ValueError(f"{table} is no TOML ({error}): mend it, or name another file") from error
    todo, rows = jobs(asked), read(out) if Path(out).exists() else []
    try_writing(Path(out).parent)
    try_writing(keep)
    sweep_strays(Path(out).parent, Path(out).name)

    def key(row: dict) -> tuple:
        return tuple(row[name] for name in KEY)

    tags = {job.key: job.tag for job in todo}  # of other settings, what failed is tried again, and what did not is kept
    rows = [row for row in rows if "error" not in row or tags.get(key(row), row["tag"]) == row["tag"]]
    done = {key(row): row["tag"] for row in rows}
    if changed := [job for job in todo if done.get(job.key, job.tag) != job.tag]:
        raise ValueError(f"{out} has {len(changed)} rows of other settings, such as {changed[0].key}: remove them, or name "
                         "another file")
    todo = [job for job in todo if job.key not in done]

    def folder(job: Job) -> Path:
        return kept(keep, *job.key, job.tag)

    client = None if scheduler is None else connect(scheduler)
    bar = tqdm(total=len(todo), desc=Path(table).stem)
    for job, (row, files) in remote(todo, client) if client else local(todo, folder):
        for name, content in files.items():
            with writing(folder(job) / name) as part:
                part.write_bytes(content)
        rows.append(row)
        write(out, rows)
        if "error" in row:
            bar.write(f"{job.method}, {job.asked.prompt!r}, seed {job.asked.seed}: {row['error']}", file=sys.stderr)
        else:
            for name in ("checkpoint.safetensors", "start.safetensors"):
                for file in folder(job).rglob(name):
                    file.unlink()
        bar.update()
        bar.set_postfix_str(f"{job.method}, {job.asked.prompt}")
    return rows


Done = Iterator[tuple[Job, tuple[dict, dict[str, bytes]]]]


def local(todo: list[Job], folder: Callable[[Job], Path]) -> Done:
    for job in todo:
        sweep_strays(folder(job))
        yield job, one(job, folder(job))


def connect(scheduler: str):
    """Dask's client. ValueError where there is no scheduler at the address, or no Dask."""
    try:
        from distributed import Client

        return Client(scheduler)
    except (ImportError, ValueError, OSError) as error:
        raise ValueError(f"--scheduler is the address of one that runs, such as tcp://host:8786, got {scheduler!r} ({error}): "
                         'start it, change the address, or install Dask, pip install -e ".[sweep]"') from error


def remote(todo: list[Job], client) -> Done:
    """On Dask's workers; a worker that is lost, or fails otherwise than a run may, costs its run."""
    from distributed import as_completed

    with client:
        futures = {client.submit(one, job, pure=False): job for job in todo}
        for future in as_completed(futures):
            job = futures[future]
            if future.status == "finished":
                yield job, future.result()
                continue
            lost = str(future.exception()).partition("\n")[0] or future.status
            yield job, ({"method": job.method, "prompt": job.asked.prompt, "seed": job.asked.seed, "tag": job.tag,
                         "error": f"the worker said: {lost}", "date": str(date.today())}, {})
