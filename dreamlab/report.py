"""What is made of a result: its pictures, its measures, and the files for other programs. Here, and nowhere else."""
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor
from tqdm.auto import tqdm

from dreamlab import export
from dreamlab.assets import save_glb
from dreamlab.cameras import ring
from dreamlab.files import write_json, writing
from dreamlab.metrics.align import align
from dreamlab.metrics.appearance import measure, references
from dreamlab.metrics.shape import shape
from dreamlab.metrics.truth import NOTHING, seen_points, truth
from dreamlab.pipeline import Work
from dreamlab.priors.base import Card, Prior
from dreamlab.scenes.base import Scene
from dreamlab.stage import Stage
from dreamlab.toybox.captions import parse
from dreamlab.toybox.judge import Judge
from dreamlab.toybox.objects import Toy
from dreamlab.toybox.render import render as render_truth
from dreamlab.types import Images

WORLD = "toybox"  # the one whose truth is known
SHEET = 8  # views a run leaves small pictures of
SIDE = 64  # pixels of such a view
WHITE = torch.ones(3)


def ready(prompt: str, card: Card) -> None:
    """ValueError for a prompt outside the world of a prior, FileNotFoundError without the judge: before any work."""
    if card.world == WORLD:
        parse(prompt)
        Judge.load()


@torch.no_grad()
def against_truth(scene: Scene, prompt: str) -> dict:
    """The measures of a scene with sides; ``kind`` and ``colour`` are probabilities, what is read ends in ``_read``."""
    kind, colour = parse(prompt)
    found = truth(scene.render, kind, colour, seen_points(scene.render)).asdict()
    if scene.meshed:
        found |= shape(scene, align(scene.render, kind, colour))
    for name in ("kind", "colour"):
        found[f"{name}_read"], found[name] = found[name], found.pop(f"p_{name}")
    return found


@torch.no_grad()
def against_renders(pictures: Images, prompt: str, prior: Prior | None = None) -> dict:
    """The measures of flat pictures; the renders beside them go through the autoencoder of the ``prior``, if one is given."""
    def autoencoder(images: Images) -> Images:
        return prior.decode(prior.encode(images.to(prior.device))).cpu()

    return measure(pictures, prompt, references(prompt, **{"through": autoencoder} if prior else {}))


class Solid:
    """The report of a scene that has sides: turntable, page, contact sheet; toys are measured against the truth."""

    memory = 780_000_000  # bytes that drawing and measuring add on a CPU, read off runs of the defaults

    def __init__(self, stage: Stage, prompt: str):
        self.stage, self.scene, self.prompt = stage, stage.scene, prompt
        self.known = stage.prior.card.world == WORLD

    def watch(self, folder: Path, done: int) -> None:
        """Called at the start of a new run and after every step."""

    def keep(self, folder: Path) -> dict[str, str]:
        """What a run leaves also when it is stopped."""
        return self.scene.export(folder)

    @torch.no_grad()
    def views(self) -> Images:
        """Eight small pictures, from all around."""
        return self.scene.render(ring(SHEET), SIDE, WHITE).rgb.cpu()

    def measures(self) -> dict:
        """Of a toy against the truth (:mod:`dreamlab.metrics`), aligned with it; nothing in another world."""
        return against_truth(self.scene, self.prompt) if self.known else {}

    @torch.no_grad()
    def write(self, folder: Path, last: bool = True) -> tuple[dict[str, str], str]:
        """Everything, into a folder: what each file is, and what was measured in a sentence. A part that is not the ``last``
        has neither turntable nor page: a field takes as long to draw them as to learn."""
        side = max(256, self.stage.resolution)
        rows, said = {"this run": self.scene.render(ring(8), side // 2, WHITE).rgb}, ""
        files = {"contact_sheet.png": "8 azimuths"} | self.keep(folder)
        if last:
            files = self.turning(folder, side) | files
        if self.scene.meshed:
            files["mesh.glb"] = save_glb(self.scene.mesh(), folder / "mesh.glb", self.scene.paint)
        if self.known:
            kind, colour = parse(self.prompt)
            rows["ground truth"] = render_truth(Toy(kind), colour, ring(8), side // 2).rgb
            write_json(folder / "metrics.json", m := self.measures())
            files |= {"contact_sheet.png": "8 azimuths over the ground truth", "metrics.json": "against the truth"}
            said = ("There is next to nothing to be seen." if m["kind_read"] == NOTHING else
                    f"It reads as a {m['colour_read']} {m['kind_read']} with {m['fronts']} front{'s' * (m['fronts'] != 1)}. "
                    f"Against the truth: score {m['score']:.1f} dB, IoU {m['iou']:.2f}, view ratio {m['view_ratio']:.2f}.")
        save_image(export.contact_sheet(list(rows.values()), list(rows)), folder / "contact_sheet.png")
        return files, said

    def turning(self, folder: Path, side: int) -> dict[str, str]:
        """The object turned around, as a picture that moves and as a page."""
        orbit = ring(36, radius=2.6)
        frames = torch.cat([self.scene.render(orbit[i : i + 1], side, WHITE).rgb.cpu() for i in tqdm(range(36), "turntable")])
        export.save_turntable(frames, folder / "turntable.gif")
        fewer = {"views": 18, "elevations_deg": (0, 30), "resolution": 256}
        coarse = self.scene.slow and next(iter(self.scene.parameters().values())).device.type == "cpu"
        export.save_viewer(self.scene, folder / "viewer.html", self.prompt, **fewer if coarse else {})
        return {"turntable.gif": f"36 views, {side} px", "viewer.html": "to turn it in a browser"}


class Flat(Solid):
    """The report of pictures: themselves, their way from start to end; toys are measured against real renders."""

    memory = 330_000_000

    def look(self) -> Images:
        with torch.no_grad():
            return self.scene.render().rgb.cpu()

    def watch(self, folder: Path, done: int) -> None:
        moments = sorted({round(i * self.stage.steps / 7) for i in range(8)})
        if done in moments:
            film(folder / "progress.png", self.look(), moments, moments.index(done))

    def keep(self, folder: Path) -> dict[str, str]:
        row = torch.cat(list(enlarge(self.look(), 256)), 1)
        save_image(Image.fromarray(export.to_uint8(row)), folder / "picture.png")
        return {"picture.png": f"{self.scene.together} pictures by {type(self.stage.rule).__name__}"}

    def views(self) -> Images:
        pictures = self.look()[[i % self.scene.together for i in range(SHEET)]].movedim(-1, 1)
        return torch.nn.functional.interpolate(pictures, (SIDE, SIDE), mode="bilinear", antialias=True).movedim(1, -1)

    def measures(self) -> dict:
        latent = "latents" in self.scene.parameters()
        return against_renders(self.look(), self.prompt, self.stage.prior if latent else None) if self.known else {}

    def write(self, folder: Path, last: bool = True) -> tuple[dict[str, str], str]:
        files, said = self.keep(folder) | {"progress.png": "from start to end"}, ""
        if m := self.measures():
            write_json(folder / "metrics.json", m)
            files["metrics.json"] = "against real renders"
            said = (f"The judge gives the kind {m['kind']:.2f} and the colour {m['colour']:.2f}. Against real renders: "
                    f"saturation x {m['saturation_ratio']:.2f}, sharpness x {m['sharpness_ratio']:.2f}.")
        return files, said


def report(work: Work, prompt: str) -> Solid:
    """The report that suits a part's scene."""
    return (Flat if work.stage.scene.dimensions == 2 else Solid)(work.stage, prompt)


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
