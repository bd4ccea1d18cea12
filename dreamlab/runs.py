"""The one owner of a run: its folder, its parts one after the other, what is left when it stops, and what is said."""
import hashlib
import re
import sys
from pathlib import Path

from dreamlab import memory, scenes
from dreamlab.files import try_writing, write_json
from dreamlab.pipeline import Asked, Work, work
from dreamlab.priors.base import Prior
from dreamlab.priors.diffusion import card_of
from dreamlab.report import Solid, ready, report
from dreamlab.settings import name_of
from dreamlab.stage import read


def dream(asked: Asked, out: Path = Path("runs"), until: str | None = None, prior: Prior | None = None) -> Path:
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
    """One part: say what memory it needs, run it to its end, to Ctrl-C or to a gradient that is not finite, and leave in its
    folder what there is; the whole report at the end."""
    view: Solid = report(item, asked.prompt)
    checkpoint, home = item.checkpoint, item.home

    def leave():
        write_json(home / "settings.json", asked.settings(item.name))
        view.keep(home)

    reached = read(checkpoint, tensors=False)[0] if checkpoint.exists() else None
    if reached is None or reached < item.stage.steps:
        memory.announce(item.stage, view.memory, say)
    steps = item.run()
    try:
        if reached is None:
            view.watch(home, 0)
        for step in steps:
            view.watch(home, step.step + 1)
    except (KeyboardInterrupt, FloatingPointError):
        steps.close()  # saves the checkpoint
        leave()
        raise
    leave()
    files, said = view.write(home)
    item.files = files | {"settings.json": "what was run"}
    if said:
        say(f"\n{said}")


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
