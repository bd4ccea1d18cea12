"""Many runs from one small table: prompts x methods x seeds, a row of results a run.

The table is TOML. ``[[runs]]`` pair a prompt with seeds, ``[methods.NAME]`` lists fields of
:class:`dreamlab.pipelines.dreammapping.Settings` to change (``base`` names one of the baselines to change them from), and
``[settings]`` changes them for every method; ``tier`` is "toy" or "paper"::

    tier = "toy"
    runs = [{ prompt = "a red mug", seeds = [0, 1] }, { prompt = "a blue duck", seeds = [0] }]
    [settings]
    steps = 120
    [methods.SDS]
    rule = "SDS"
    [methods."VDM+DCA"]

A run whose row is there is not run again, and one that was interrupted goes on from its checkpoint. A run that fails, a GPU's
memory included, has a row too, with its ``error``; it is tried again without that row, or with other settings.
"""
import csv
import io
import re
import time
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import date
from pathlib import Path
from types import UnionType
from typing import Union, get_args, get_origin

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from tqdm.auto import tqdm

from dreamlab.cameras import ring
from dreamlab.export import to_uint8
from dreamlab.files import writing
from dreamlab.metrics.picture import measure
from dreamlab.metrics.truth import VIEWS, seen_points, truth
from dreamlab.pipelines.baselines import BASELINES
from dreamlab.pipelines.dreammapping import Settings, stage
from dreamlab.priors.diffusion import BUNDLED
from dreamlab.scenes.gaussians import Gaussians
from dreamlab.stage import run, settings_tag
from dreamlab.toybox.captions import parse
from dreamlab.toybox.objects import Toy
from dreamlab.toybox.render import render as render_truth

SHEET = 8  # views a run leaves a picture of
SIDE = 64  # pixels of such a view
WORDS = ("method", "prompt", "tag", "error")  # columns of text, whatever it looks like
KEY = ("method", "prompt", "seed")


@dataclass(frozen=True)
class Job:
    """One run: what is asked for, by which method, and the settings that follow."""

    method: str
    settings: Settings

    @property
    def key(self) -> tuple[str, str, int]:
        return self.method, self.settings.prompt, self.settings.seed

    @property
    def tag(self) -> str:
        return settings_tag(asdict(self.settings))


def plain(value):
    """TOML's lists as tuples, also those inside tables."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return tuple(map(plain, value)) if isinstance(value, list) else value


def fits(value, kind) -> bool:
    """Whether a value is of an annotated type: a union, a tuple of so many, a dict, or a class. An int is a float too."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(fits(value, k) for k in inner)
    if origin is tuple:
        return isinstance(value, tuple) and len(value) == len(inner) and all(map(fits, value, inner))
    if origin is dict:
        return isinstance(value, dict) and all(fits(v, inner[1]) for v in value.values())
    return type(value) is kind or (kind is float and type(value) is int)


def check_method(name: str, changes: dict) -> None:
    """ValueError for a base that there is not, a field that Settings have not, or a value of another type."""
    known = {f.name: f for f in fields(Settings) if f.name not in ("prompt", "seed", "growth", "cameras", "decay")}
    if unknown := changes.keys() - known - {"base"}:
        raise ValueError(f"method {name!r} sets {sorted(unknown)}; settings are {', '.join(sorted(known))}")
    for field, value in changes.items():
        if field == "base":
            if value not in list(BASELINES):  # a list, since a table cannot be looked up
                raise ValueError(f"method {name!r} has base {value!r}; there is: {', '.join(BASELINES)}")
        elif not fits(value, kind := known[field].type):
            raise ValueError(f"method {name!r} sets {field} = {value!r}, which must be of type "
                             f"{kind if get_args(kind) else kind.__name__}, such as {known[field].default!r}")


def jobs(table: dict) -> list[Job]:
    """The runs of a table, prompt by prompt. ValueError for what it does not know, before anything is run."""
    if unknown := set(table) - {"tier", "runs", "settings", "methods"}:
        raise ValueError(f"a table has tier, runs, settings and methods, and not {', '.join(sorted(unknown))}")
    if (tier := table.get("tier", "toy")) not in ("toy", "paper"):
        raise ValueError(f'tier must be "toy" or "paper", got {tier!r}')
    runs, methods, common = table.get("runs"), table.get("methods"), table.get("settings", {})
    if not (runs and methods and isinstance(runs, list)
            and all(isinstance(x, dict) for x in (methods, common)) and all(isinstance(x, dict) for x in methods.values())):
        raise ValueError('a table needs runs, such as [{ prompt = "a red mug", seeds = [0] }], and at least one '
                         "[methods.NAME]; [settings] may give what all methods share")
    methods = {name: plain(common | changes) for name, changes in methods.items()}
    for name, changes in methods.items():
        check_method(name, changes)
    found = []
    for line in map(plain, runs):
        seeds = line.get("seeds") if isinstance(line, dict) and line.keys() == {"prompt", "seeds"} else None
        if not (seeds and isinstance(seeds, tuple) and {type(s) for s in seeds} == {int} and type(line["prompt"]) is str):
            raise ValueError(f'runs are such as {{ prompt = "a red mug", seeds = [0, 1] }}, got {line}')
        for seed in seeds:
            for name, changes in methods.items():
                base = BASELINES[changes.get("base", "DreamMapping")]
                changes = {k: v for k, v in changes.items() if k != "base"}
                settings = Settings(line["prompt"], seed=seed, **base | (changes if tier == "paper" else {}))
                found.append(Job(name, settings.toy(**changes) if tier == "toy" else settings))
    for job in found:
        if job.settings.prior in BUNDLED:
            parse(job.settings.prompt)
    for key, times in Counter(job.key for job in found).items():
        if times > 1:
            raise ValueError(f"a table asks for each run once, got {key} {times} times")
    return found


def one(job: Job, checkpoint: Path | None = None) -> tuple[dict, dict[str, bytes]]:
    """Run a job. Its row, and files to keep: eight views of the scene, and the scene's leaves."""
    settings = job.settings
    row = {"method": job.method, "prompt": settings.prompt, "seed": settings.seed, "tag": job.tag}
    resumed = checkpoint and checkpoint.exists()
    try:
        plan = stage(settings)
        begin = time.perf_counter()
        for _ in run(plan, checkpoint, every=50, progress=False, tag=job.tag):
            pass
    except (ValueError, FloatingPointError, torch.cuda.OutOfMemoryError) as error:
        return row | {"error": str(error).partition("\n")[0], "date": str(date.today())}, {}
    row |= {} if resumed else {"seconds": round(time.perf_counter() - begin, 1)}
    row["steps"] = settings.steps
    if isinstance(plan.scene, Gaussians):
        row["gaussians"] = len(plan.scene)
    row |= results(plan.scene, settings)
    row |= {"date": str(date.today()), "torch": torch.__version__, "threads": torch.get_num_threads(),
            "device": str(plan.prior.null.device)}
    with torch.no_grad():
        views = plan.scene.render(ring(SHEET), SIDE, torch.ones(3)).rgb
    buffer = io.BytesIO()
    Image.fromarray(to_uint8(torch.cat(list(views), 1))).save(buffer, "WEBP", quality=90)
    leaves = {name: leaf.detach().cpu().contiguous() for name, leaf in plan.scene.parameters().items()}
    return row, {"views.webp": buffer.getvalue(), "scene.safetensors": save(leaves)}


@torch.no_grad()
def results(scene, settings: Settings) -> dict:
    """Measures of a toy against the truth (:mod:`dreamlab.metrics`), from 24 views over white; nothing with another prior."""
    if settings.prior not in BUNDLED:
        return {}
    kind, colour = parse(settings.prompt)
    found = truth(scene.render, kind, colour, seen_points(scene.render)).asdict()
    del found["front_scores"]
    found["colour_read"], found["kind_read"] = found.pop("colour"), found.pop("kind")
    white, cameras = torch.ones(3), ring(VIEWS)
    real = render_truth(Toy(kind), colour, cameras, 64).rgb
    return found | measure(scene.render(cameras, 64, white).rgb, settings.prompt, real)


def read(path: Path) -> list[dict]:
    """The rows of a CSV that :func:`sweep` wrote, with numbers as numbers, truths as truths and empty cells left out.

    ValueError for another CSV.
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

    with open(path, newline="") as file:
        table = csv.DictReader(file)
        if missing := {*KEY, "tag"} - set(table.fieldnames or ()):
            raise ValueError(f"{path} is no table of a sweep, it has no column {', '.join(sorted(missing))}: name another file")
        return [{k: v if k in WORDS else value(v) for k, v in row.items() if v != ""} for row in table]


def write(path: Path, rows: list[dict]) -> None:
    """Rows as CSV, a column for whatever any of them has; written aside and renamed."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with writing(path) as part, open(part, "w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def kept(keep: Path, method: str, prompt: str, seed: int, tag: str) -> Path:
    """The folder in ``keep`` with a run's files."""
    return Path(keep) / re.sub(r"[^\w.+]+", "-", f"{method}-{prompt}-{seed}-{tag}")


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


def sweep(table: Path, out: Path, scheduler: str | None = None, keep: Path = Path("runs/sweep")) -> list[dict]:
    """Run what a table asks for and ``out`` does not have yet. Rows go to ``out`` as they come, files to folders in ``keep``.

    One after the other in this process, or on the workers of the Dask ``scheduler`` at an address such as
    "tcp://host:8786" (needs the ``sweep`` extra; workers need dreamlab installed, and no common disk). A worker keeps no
    checkpoint, so what it was at begins anew if it is lost; start workers with one thread, one to a GPU. One sweep at a time
    may write ``out``; two would lose each other's rows. ``seconds`` is left out of the row of a resumed run. ValueError
    where ``out`` has a row of other settings under the same name.
    """
    try:
        asked = tomllib.loads(Path(table).read_text())
    except ValueError as error:
        raise ValueError(f"{table} is no TOML: {error}") from error
    todo, rows = jobs(asked), read(out) if Path(out).exists() else []

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

    def take(job: Job, row: dict, files: dict[str, bytes]):
        for name, content in files.items():
            with writing(folder(job) / name) as part:
                part.write_bytes(content)
        rows.append(row)
        write(out, rows)
        if "error" not in row:
            (folder(job) / "checkpoint.safetensors").unlink(missing_ok=True)

    bar = tqdm(total=len(todo), desc=Path(table).stem)
    for job, (row, files) in remote(todo, scheduler) if scheduler else local(todo, folder):
        take(job, row, files)
        bar.update()
        bar.set_postfix_str(f"{job.method}, {job.settings.prompt}")
    return rows


def local(todo: list[Job], folder):
    for job in todo:
        yield job, one(job, folder(job) / "checkpoint.safetensors")


def remote(todo: list[Job], scheduler: str):
    from distributed import Client, as_completed

    with Client(scheduler) as client:
        futures = {client.submit(one, job, pure=False): job for job in todo}
        for future, result in as_completed(futures, with_results=True):
            yield futures[future], result
