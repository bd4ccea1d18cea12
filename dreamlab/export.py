"""Pictures of scenes for the eye: turntable, viewer, contact sheet. Written aside, then renamed."""
import base64
import io
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor
from tqdm.auto import tqdm

from dreamlab.cameras import orbit
from dreamlab.checks import Count, Range, check, checked, finite
from dreamlab.files import writing
from dreamlab.types import Images


def to_uint8(images: Float[Tensor, "*b h w 3"]) -> np.ndarray:
    """[0, 1] -> 0 ... 255, rounded; values outside are clamped. ValueError for a NaN, which would be black."""
    finite(images, "the pictures to write have", "look at the scene, and at the prior that decodes it")
    return (images.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()


@checked
def save_turntable(frames: Images, path: Path | str, fps: Annotated[float | int, Range(0.1, 100)] = 12) -> None:
    """An endless animation of (T, H, W, 3) frames in [0, 1], by suffix a ``.gif`` (256 colours) or a ``.webp``."""
    suffix = Path(path).suffix.lower()
    if suffix not in (".gif", ".webp"):
        raise ValueError(f"a turntable is a .gif or a .webp, got {path}: change the name")
    if not len(frames):
        raise ValueError("a turntable needs at least one, got 0 frames: give some")
    first, *rest = map(Image.fromarray, to_uint8(frames))
    with writing(path) as part:
        first.save(part, format=suffix[1:], save_all=True, append_images=rest, duration=round(1000 / fps), loop=0)


@torch.no_grad()
@checked
def save_viewer(scene: Any, path: Path | str, title: str = "", views: Count = 36,
                elevations_deg: Sequence[float | int] = (0, 20, 40), resolution: Count = 320, radius: float = 2.6,
                fov_deg: float = 40.0, background: Float[Tensor, "3"] | None = None,
                quality: Annotated[int, Range(0, 100)] = 80, progress: bool = True) -> None:
    """A scene to turn in a browser: one ``.html`` page that needs no network, under ``title``, which may be any text.

    It holds ``views`` pictures around the object at each elevation, the first at the front, over ``background`` (white if
    None), as one WebP of ``quality`` 0 ... 100. Drag, sliders or arrow keys choose among them.
    """
    check("scene.render", getattr(scene, "render", None), Callable)
    side = 16383  # pixels: the largest WebP
    if not elevations_deg or resolution * max(views, len(elevations_deg)) > side:
        raise ValueError(f"a viewer needs views and elevations, and at most {side} pixels either way; got {views} views at "
                         f"{len(elevations_deg)} elevations of {resolution} pixels: lower views or resolution")
    white = torch.ones(3) if background is None else background
    azimuths, tilts = torch.arange(views) * (360 / views), sorted(float(e) for e in elevations_deg)
    cameras = orbit(azimuths.repeat(len(tilts)), torch.tensor(tilts).repeat_interleave(views), radius, fov_deg)
    frames = torch.cat([scene.render(cameras[i : i + 1], resolution, white).rgb
                        for i in tqdm(range(len(cameras)), desc="viewer", disable=not progress)])
    rows = to_uint8(frames).reshape(len(tilts), views, resolution, resolution, 3).swapaxes(1, 2)
    file = io.BytesIO()
    Image.fromarray(rows.reshape(len(tilts) * resolution, -1, 3)).save(file, "webp", quality=quality)
    page = Template(Path(__file__).with_name("viewer.html").read_text(encoding="utf-8")).substitute(
        title=escape(title), size=resolution, views=views, tilts=[float(f"{e:g}") for e in tilts],
        sheet=base64.b64encode(file.getvalue()).decode())
    with writing(path) as part:
        part.write_text(page, encoding="utf-8")


@checked
def contact_sheet(rows: list[Float[Tensor, "_ _ _ 3"]], labels: list[str],
                  gap: Annotated[int, Range(0, 1000)] = 4) -> Image.Image:
    """Rows of pictures in [0, 1], each row (n, H, W, 3) of its own size, under its label; ``.save(path)`` writes it."""
    if len(rows) != len(labels) or not rows:
        raise ValueError(f"give at least 1 row, and one label for each; got {len(rows)} rows and {len(labels)} labels")
    strip = 18  # pixels of height for a label
    width = max(n * (w + gap) + gap for n, _, w, _ in (row.shape for row in rows))
    sheet = Image.new("RGB", (width, sum(row.shape[1] + strip + gap for row in rows)), "white")
    draw, y = ImageDraw.Draw(sheet), 0
    for row, label in zip(rows, labels, strict=True):
        draw.text((gap, y + 4), label, fill="black")
        for i, picture in enumerate(to_uint8(row)):
            sheet.paste(Image.fromarray(picture), (gap + i * (row.shape[2] + gap), y + strip))
        y += row.shape[1] + strip + gap
    return sheet
