"""The one owner of a run: its folder, its parts one after the other, what is left when it stops, and what is said."""
import hashlib
import io
import re
import sys
import time
from datetime import date
from pathlib import Path

import torch
from PIL import Image

from dreamlab import memory, scenes
from dreamlab.checks import Name, checked
from dreamlab.export import to_uint8
from dreamlab.files import try_writing, write_json
from dreamlab.pipeline import Asked, Work, work
from dreamlab.priors.base import Prior
from dreamlab.priors.diffusion import card_of
from dreamlab.report import Solid, ready, report
from dreamlab.settings import name_of
from dreamlab.stage import read


@checked
def dream(asked: Asked, out: Path | Name = Path("runs"), until: str | None = None, prior: Prior | None = None) -> Path:
    """Run what is asked for, or what is left of it, and leave pictures, measures and settings of each part in a folder.

    The folder is named after the prompt, the method, the rule where it is another than the method's, and the seed. The same
    call goes on where an earlier one was stopped; a call with other settings is refused (:func:`dreamlab.pipeline.work`).
    Whatever is wrong with prompt, settings, weights or folder is found out before the first step.
    """
    for part in asked.parts.values():
        ready(asked.prompt, prior.card if prior else card_of(part.prior))
    folder = Path(out) / folder_name(asked)
    try_writing(folder)
    for item in work(asked, folder, until, prior):
        go(item, asked)
    for name in asked.parts:
        home = asked.home(folder, name)
        if (home / "scene.safetensors").exists():
            for file, what in scenes.notes(home / "scene.safetensors").get("files", {}).items():
                say(f"  {home / file}  ({what})")
    return folder


def go(item: Work, asked: Asked) -> None:
    """One part, run to its end, to Ctrl-C or to a gradient that is not finite: its folder has what there is then, and the whole
    report at the end."""
    view, home = report(item, asked.prompt), item.home

    def leave():
        write_json(home / "settings.json", asked.settings(item.name))
        view.keep(home)

    try:
        distil(item, view)
    except (KeyboardInterrupt, FloatingPointError):
        leave()
        raise
    leave()
    files, said = view.write(home)
    item.files = files | {"settings.json": "what was run"}
    if said:
        say(f"\n{said}")


def distil(item: Work, view: Solid, every: int = 25, quiet: bool = False) -> bool:
    """Say what memory a part needs, and run what is left of it; returns whether it was gone on with. ValueError, before any
    step, where the memory is not there."""
    reached = read(item.checkpoint, tensors=False)[0] if item.checkpoint and item.checkpoint.exists() else None
    if reached is None or reached < item.stage.steps:
        memory.announce(item.stage, view.memory, say=(lambda line: None) if quiet else say)
    steps, watched = item.run(every, progress=not quiet), item.home and not quiet
    try:
        if watched and reached is None:
            view.watch(item.home, 0)
        for step in steps:
            if watched:
                view.watch(item.home, step.step + 1)
    finally:
        steps.close()  # saves the checkpoint
    return reached is not None


def measure(asked: Asked, folder: Path) -> tuple[dict, dict[str, bytes]]:
    """Run without a word: what was measured of the last part, and files to keep: eight small views, and the scene.

    ``seconds`` is left out where a run was gone on with.
    """
    seconds, resumed, last = 0.0, False, list(asked.parts)[-1]
    for item in work(asked, folder, always=True):
        view, stage, begin = report(item, asked.prompt), item.stage, time.perf_counter()
        resumed |= distil(item, view, every=50, quiet=True)
        seconds += time.perf_counter() - begin
        if item.name == last:
            row = {} if resumed else {"seconds": round(seconds, 1)}
            row |= {"steps": stage.steps} | stage.scene.count() | view.measures()
            row |= {"date": str(date.today()), "torch": torch.__version__, "threads": torch.get_num_threads(),
                    "device": str(stage.prior.device)}
            row.pop("front_scores", None)
            image = io.BytesIO()
            Image.fromarray(to_uint8(torch.cat(list(view.views()), 1))).save(image, "WEBP", quality=90)
    scene = asked.home(folder, last) / "scene.safetensors"
    return row, {"views.webp": image.getvalue(), "scene.safetensors": scene.read_bytes()}


def folder_name(asked: Asked) -> str:
    """Prompt, method and rule where they are not the usual ones, and seed. Different prompts have different folders."""
    words = re.findall(r"\w+", asked.prompt.lower())
    slug = "-".join(words)[:40]
    if slug.replace("-", " ") != asked.prompt:  # it does not say the whole prompt
        slug += f"-{hashlib.sha256(asked.prompt.encode()).hexdigest()[:6]}"
    method = "" if asked.method.name == "dreammapping" else f"-{asked.method.name}"
    own = asked.method.parts(asked.tier)
    chosen = [name_of(part.rule) for name, part in asked.parts.items() if name_of(part.rule) != name_of(own[name].rule)]
    return f"{slug}{method}{''.join(f'-{rule.lower()}' for rule in chosen)}-seed{asked.seed}"


def say(line: str) -> None:
    """Print, if anybody listens: a closed output stops no run."""
    try:
        print(line, flush=True)
    except (OSError, ValueError):
        sys.stdout = None
