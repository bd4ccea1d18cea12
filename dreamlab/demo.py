"""From a prompt to a folder: distil, draw, measure, and say what was made and where. Gaussians, or pictures without any 3D."""
import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor
from tqdm.auto import tqdm

from dreamlab import export, memory
from dreamlab.cameras import ring
from dreamlab.files import writing
from dreamlab.metrics.picture import measure, references
from dreamlab.metrics.truth import seen_points, truth
from dreamlab.pipelines import picture
from dreamlab.pipelines.dreammapping import Settings, stage
from dreamlab.priors.diffusion import BUNDLED
from dreamlab.scenes.gaussians import Gaussians
from dreamlab.scenes.picture import Picture
from dreamlab.stage import Stage, load, run, settings_tag
from dreamlab.toybox.captions import parse
from dreamlab.toybox.judge import Judge
from dreamlab.toybox.objects import Toy
from dreamlab.toybox.render import render as render_truth
from dreamlab.types import Images

# Bytes that drawing and measuring a result add on a CPU, read off runs of the defaults: more than distilling a small scene does
MEASURING = {Gaussians: 780_000_000, Picture: 330_000_000}


def dream(settings: Settings, out: Path = Path("runs")) -> Path:
    """Prompt to 3D Gaussians: distil, then write turntable, page, contact sheet, ``.ply`` and settings to a folder, and say so;
    toys are measured against the truth besides.

    The folder is named after the prompt, the rule if it is not VDM, a start from a ball, and the seed. It holds a checkpoint,
    so the same call goes on where an earlier one was stopped; with other settings in the same folder the call is refused.
    """
    if settings.scene != "gaussians":
        raise ValueError(f"this draws and exports Gaussians, got scene={settings.scene!r}: a sweep runs other scenes")
    if settings.prior in BUNDLED:
        parse(settings.prompt)
        Judge.load()  # whatever is missing is found out before any work
    rule = "" if settings.rule == "VDM" else f"-{settings.rule.lower()}"
    folder = Path(out) / f"{slug(settings.prompt)}{rule}{'-ball' * settings.ball}-seed{settings.seed}"
    plan = stage(settings)
    distil(plan, settings, folder, lambda: export.save_ply(plan.scene, folder / "gaussians.ply"))
    results(plan.scene, settings, folder)
    return folder


def dream_picture(settings: picture.Settings, out: Path = Path("runs")) -> Path:
    """Prompt to pictures, by any rule and prior: writes them, their way from start to end, settings, and metrics of toys.

    Another prior's prompt may be anything its text encoder reads. Folder, checkpoint and refusal are as in :func:`dream`.
    """
    toys = settings.prior in BUNDLED
    if toys:
        parse(settings.prompt)
        Judge.load()
    name = f"{slug(settings.prompt)}-{settings.rule.lower()}-{'latents' if settings.latent else 'pixels'}-seed{settings.seed}"
    folder, plan = Path(out) / name, picture.stage(settings)
    plan.prompts.embed([settings.prompt])  # too long a prompt is found out before the first step
    moments = sorted({round(i * settings.steps / 7) for i in range(8)})

    def look() -> Images:
        return plan.scene.render().rgb.detach()

    def watch(done: int):
        if done in moments:
            film(folder / "progress.png", look(), moments, moments.index(done))

    def keep():
        row = torch.cat(list(enlarge(look(), 256)), 1)
        save_image(Image.fromarray(export.to_uint8(row)), folder / "picture.png")

    distil(plan, settings, folder, keep, watch)
    files = {"picture.png": f"{settings.pictures} pictures by {settings.rule}", "progress.png": "from start to end",
             "settings.json": "what was run"}
    if toys:
        def autoencoder(images: Images) -> Images:
            return plan.prior.decode(plan.prior.encode(images.to(plan.prior.device))).cpu()

        real = references(settings.prompt, through=autoencoder) if settings.latent else references(settings.prompt)
        m = measure(look(), settings.prompt, real)
        write(folder / "metrics.json", m)
        files["metrics.json"] = "against real renders" + ", passed through the autoencoder too" * settings.latent
        print(f"\nThe judge gives the kind {m['kind']:.2f} and the colour {m['colour']:.2f}. Against real renders: saturation "
              f"x {m['saturation_ratio']:.2f}, sharpness x {m['sharpness_ratio']:.2f}.")
    announce(folder, files)
    return folder


def slug(prompt: str) -> str:
    """A prompt as part of a folder's name: its words, lower case, at most 40 characters."""
    if not (words := re.findall(r"\w+", prompt.lower())):
        raise ValueError(f"the prompt {prompt!r} has no words: say what to make")
    return "-".join(words)[:40]


def distil(plan: Stage, settings: Settings | picture.Settings, folder: Path, keep: Callable[[], None],
           watch: Callable[[int], None] = lambda done: None) -> None:
    """Say how much memory a stage needs, run it to its end, to Ctrl-C or to a gradient that is not finite, and leave in
    ``folder`` its checkpoint, ``settings.json`` and what ``keep`` writes.

    ``watch(steps done)`` is called at the start of a new run and after every step.
    """
    checkpoint, tag = folder / "checkpoint.safetensors", settings_tag(asdict(settings))
    done = load(plan, checkpoint, tag)[1] if checkpoint.exists() else 0  # one of other settings is refused before any work

    def leave():
        write(folder / "settings.json", asdict(settings))
        keep()

    if done < plan.steps:
        memory.announce(plan, MEASURING[type(plan.scene)])
    steps = run(plan, checkpoint, tag=tag)
    if not checkpoint.exists():
        watch(0)
    try:
        for step in steps:
            watch(step.step + 1)
    except (KeyboardInterrupt, FloatingPointError):
        steps.close()  # saves the checkpoint
        leave()
        raise
    leave()


def results(scene: Gaussians, settings: Settings, folder: Path) -> None:
    """Pictures, what toys measure, and the closing lines."""
    white, orbit, side = torch.ones(3), ring(36, radius=2.6), max(256, settings.resolution)
    with torch.no_grad():
        frames = torch.cat([scene.render(orbit[i : i + 1], side, white).rgb.cpu() for i in tqdm(range(36), desc="turntable")])
        export.save_turntable(frames, folder / "turntable.gif")
        rows = {"this run": scene.render(ring(8), side // 2, white).rgb}
    files = {"turntable.gif": f"36 views, {side} px", "viewer.html": "to turn it in a browser",
             "contact_sheet.png": "8 azimuths", "gaussians.ply": f"{len(scene)} Gaussians, for any 3DGS viewer",
             "settings.json": "what was run"}
    if settings.prior in BUNDLED:
        kind, colour = parse(settings.prompt)
        rows["ground truth"] = render_truth(Toy(kind), colour, ring(8), side // 2).rgb
        m = truth(scene.render, kind, colour, seen_points(scene.render))
        write(folder / "metrics.json", m.asdict())
        files |= {"contact_sheet.png": "8 azimuths over the ground truth", "metrics.json": "against the truth"}
        print(f"\nIt reads as a {m.colour} {m.kind} with {m.fronts} front{'s' * (m.fronts != 1)}. Against the truth: "
              f"IoU {m.iou:.2f}, PSNR {m.psnr:.1f} dB, view ratio {m.view_ratio:.2f}.")
    save_image(export.contact_sheet(list(rows.values()), list(rows)), folder / "contact_sheet.png")
    export.save_viewer(scene, folder / "viewer.html", settings.prompt)
    announce(folder, files)


def announce(folder: Path, files: dict[str, str]) -> None:
    for file, what in files.items():
        print(f"  {folder / file}  ({what})")


def enlarge(images: Images, least: int) -> Float[Tensor, "b _ _ 3"]:
    """Every pixel repeated, so that the height is at least about ``least``; larger pictures stay as they are."""
    k = max(1, least // images.shape[1])
    return images.repeat_interleave(k, 1).repeat_interleave(k, 2)


def film(path: Path, images: Images, moments: list[int], column: int) -> None:
    """Put pictures, one under the other, into their column of a strip over ``moments`` (steps done), which fills in a run.

    Column 0 begins a new strip; the others go into the one at ``path``, so that a resumed run completes what is there.
    """
    gap, top = 4, 18  # pixels between pictures, and for the label
    tiles = export.to_uint8(enlarge(images, 128))
    n, h, w, _ = tiles.shape
    strip = Image.new("RGB", (len(moments) * (w + gap) + gap, n * (h + gap) + top), "white")
    if column and path.exists():
        with Image.open(path) as found:
            strip.paste(found)
    x = gap + column * (w + gap)
    ImageDraw.Draw(strip).text((x, 4), f"step {moments[column]}", fill="black")
    for i, tile in enumerate(tiles):
        strip.paste(Image.fromarray(tile), (x, top + i * (h + gap)))
    save_image(strip, path)


def save_image(image: Image.Image, path: Path, **options) -> None:
    """In the format of the name, written aside and renamed."""
    with writing(path) as part:
        image.save(part, path.suffix[1:].upper(), **options)


def write(path: Path, values: dict) -> None:
    """JSON, written aside and renamed."""
    write_text(path, json.dumps(values, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    with writing(path) as part:
        part.write_text(text)
