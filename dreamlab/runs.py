"""The one owner of a run: its folder, its parts one after the other, what is left when it stops, and what is said."""
import hashlib
import io
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import torch
from PIL import Image

from dreamlab import assets, memory, scenes
from dreamlab.checks import Name, checked, shown
from dreamlab.export import to_uint8
from dreamlab.files import try_writing, write_json
from dreamlab.methods import METHODS
from dreamlab.pipeline import Asked, Work, work
from dreamlab.priors.base import Prior
from dreamlab.priors.diffusion import card_of
from dreamlab.report import Solid, ready, report
from dreamlab.scenes.gaussians import load_ply
from dreamlab.settings import name_of
from dreamlab.stage import read

EXPORTS = ("glb", "obj", "stl", "ply", "page")


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
    files, said = view.write(home, item.last)
    item.files = files | {"settings.json": "what was run"}
    if said:
        say(f"\n{said}")


def distil(item: Work, view: Solid, every: int = 25, quiet: bool = False) -> bool:
    """Say what a part will run and what memory that needs, and run what is left of it; returns whether it was gone on with.
    ValueError, before any step, where the memory is not there."""
    reached = read(item.checkpoint, tensors=False)[0] if item.checkpoint and item.checkpoint.exists() else None
    if reached is None or reached < item.stage.steps:
        tell = (lambda line: None) if quiet else say
        tell(item.schedule())
        memory.announce(item.stage, view.memory, say=tell)
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


@checked
def export(place: Path | Name, kinds: Sequence[str] = ()) -> dict[Path, str]:
    """Write the scene of a run for other programs, beside it, and say what each file is.

    ``place`` is a run's folder, whose last part is taken, a part's folder, or a scene.safetensors. ``kinds`` are of
    ``EXPORTS``; if none is named, a page and a .ply of Gaussians or a .glb. ValueError for what the scene cannot be.
    """
    if other := [kind for kind in kinds if kind not in EXPORTS]:
        raise ValueError(f"a scene is exported as {', '.join(EXPORTS)}, got {shown(other[0])}: choose of these")
    file = scene_of(Path(place))
    home, known = file.parent, scenes.SCENES.get(scenes.notes(file).get("scene"))
    if known and known.dimensions == 2:
        raise ValueError(f"{file} holds pictures, which have no sides to export: name a run of something solid")
    scene = scenes.load(file)
    own = {home / name: what for name, what in scene.export(home).items()}  # what a run leaves anyway
    ply = next((path for path in own if path.suffix == ".ply"), None)
    kinds = kinds or ("ply" if ply else "glb", "page")
    if "ply" in kinds and not ply:
        raise ValueError(f"a .ply holds Gaussians, and {file} a {type(scene).__name__}: choose --glb, --obj, --stl or --page")
    writers = {"glb": lambda path: assets.save_glb(mesh, path, scene.paint),
               "obj": lambda path: assets.save_obj(mesh, path, scene.paint), "stl": lambda path: assets.save_stl(mesh, path)}
    meshes = [kind for kind in writers if kind in kinds]
    mesh = scene.mesh() if meshes or not ply else None
    files = own if "ply" in kinds else {}
    files |= {home / f"mesh.{kind}": writers[kind](home / f"mesh.{kind}") for kind in meshes}
    if "page" in kinds:
        title = settings_in(home).get("prompt", home.name)
        assets.save_asset_viewer(home / "model.html", mesh, load_ply(ply) if ply else None, scene.paint, title)
        files[home / "model.html"] = "to turn it in a browser"
    return files


def scene_of(place: Path) -> Path:
    """The file of a place's scene: of the last part that its method has made. ValueError where that cannot be told."""
    for file in (place, place / "scene.safetensors"):
        if os.path.isfile(file):  # False where a name is too long
            return file
    found = {file.parent.name: file for file in sorted(place.glob("*/scene.safetensors") if os.path.isdir(place) else ())}
    for method in {settings_in(file.parent).get("method") for file in found.values()} & METHODS.keys():
        if made := [name for name in METHODS[method].toy if name in found]:
            return found[made[-1]]
    parts = f"of its parts {', '.join(found)}" if found else "of a part"
    raise ValueError(f"{place} holds no scene of a run that is done: name the folder of one, {parts}, or a scene.safetensors")


def settings_in(home: Path) -> dict:
    """What a run has left of its settings in a part's folder, if it has."""
    try:
        return json.loads((home / "settings.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


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
