"""Files for other programs and for the eye: 3DGS ``.ply``, turntable, viewer, contact sheet. Written aside, then renamed."""
import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor
from tqdm.auto import tqdm

from dreamlab.cameras import orbit
from dreamlab.files import writing
from dreamlab.scenes.gaussians import Gaussians
from dreamlab.types import Images

SH0 = 0.28209479177387814  # 1 / (2 sqrt(pi)), the constant spherical harmonic: rgb = 0.5 + SH0 * f_dc
COLUMNS = ("x y z nx ny nz f_dc_0 f_dc_1 f_dc_2 opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3").split()


def save_ply(scene: Gaussians, path: Path | str) -> None:
    """The layout of the 3DGS authors (INRIA), which viewers read: little-endian float32 rows of ``COLUMNS``.

    Normals are 0; ``f_dc = (rgb - 0.5) / SH0``; ``opacity`` is a logit, ``scale`` a log, ``rot`` wxyz of any norm.
    """
    raw = {name: value.detach().float().cpu() for name, value in scene.parameters().items()}
    f_dc = (scene.colors.detach().float().cpu() - 0.5) / SH0
    normals = torch.zeros_like(raw["means"])
    rows = torch.cat([raw["means"], normals, f_dc, raw["opacities"][:, None], raw["scales"], raw["quats"]], 1)
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(rows)}",
              *(f"property float {name}" for name in COLUMNS), "end_header", ""]
    with writing(path) as part:
        part.write_bytes("\n".join(header).encode() + rows.numpy().astype("<f4").tobytes())


def load_ply(path: Path | str) -> Gaussians:
    """Gaussians of a 3DGS ``.ply`` of float columns in any order. Colour that depends on the direction (``f_rest_*``)
    is left out, and colour outside [0, 1] is clamped. ValueError where the file is no such ``.ply``."""
    head, end, body = Path(path).read_bytes().partition(b"end_header\n")
    lines = [line.split() for line in head.decode("ascii", "replace").splitlines()]
    names = [line[2] for line in lines if line[:2] == ["property", "float"]]
    counts = [int(line[2]) for line in lines if line[:1] == ["element"]]
    if not end or ["format", "binary_little_endian", "1.0"] not in lines or len(counts) != 1:
        raise ValueError(f"{path} must be a binary little-endian .ply with one element, the vertices")
    if missing := [name for name in COLUMNS if name not in names and name[0] != "n"]:
        raise ValueError(f"{path} lacks the float columns {missing} of a 3DGS .ply")
    if len(names) != sum(line[:1] == ["property"] for line in lines) or len(body) != 4 * len(names) * counts[0]:
        raise ValueError(f"{path} must hold {counts[0]} rows of float32 alone; it is cut short or has other types")
    rows = torch.from_numpy(np.frombuffer(body, "<f4").astype(np.float32)).reshape(counts[0], -1)
    pick = lambda *prefixes: rows[:, [names.index(c) for c in COLUMNS if c.startswith(prefixes)]]  # noqa: E731
    rgb = (0.5 + SH0 * pick("f_dc_")).clamp(1e-6, 1 - 1e-6)
    return Gaussians.from_raw(dict(means=pick("x", "y", "z"), quats=pick("rot_"), scales=pick("scale_"),
                                   opacities=pick("opacity")[:, 0], colors=rgb.logit()))


def to_uint8(images: Float[Tensor, "*b h w 3"]) -> np.ndarray:
    """[0, 1] -> 0 ... 255, rounded; values outside are clamped."""
    return (images.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def save_turntable(frames: Images, path: Path | str, fps: float | int = 12) -> None:
    """An endless animation of (T, H, W, 3) frames in [0, 1], by suffix a ``.gif`` (256 colours) or a ``.webp``."""
    suffix = Path(path).suffix.lower()
    if suffix not in (".gif", ".webp"):
        raise ValueError(f"a turntable is a .gif or a .webp, got {path}")
    if not len(frames) or fps <= 0:
        raise ValueError(f"a turntable needs at least one frame and fps > 0, got {len(frames)} frames at {fps:g}")
    first, *rest = map(Image.fromarray, to_uint8(frames))
    with writing(path) as part:
        first.save(part, format=suffix[1:], save_all=True, append_images=rest, duration=round(1000 / fps), loop=0)


@torch.no_grad()
def save_viewer(scene, path: Path | str, title: str = "", views: int = 36, elevations_deg: Sequence[float | int] = (0, 20, 40),
                resolution: int = 320, radius: float = 2.6, fov_deg: float = 40.0, background: Float[Tensor, "3"] | None = None,
                quality: int = 80, progress: bool = True) -> None:
    """A scene to turn in a browser: one ``.html`` page that needs no network, under ``title``, which may be any text.

    It holds ``views`` pictures around the object at each elevation, the first at the front, over ``background`` (white if
    None), as one WebP of ``quality`` 0 ... 100. Drag, sliders or arrow keys choose among them.
    """
    side = 16383  # pixels: the largest WebP
    if views < 1 or not elevations_deg or resolution * max(views, len(elevations_deg)) > side:
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


def contact_sheet(rows: list[Float[Tensor, "_ _ _ 3"]], labels: list[str], gap: int = 4) -> Image.Image:
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
