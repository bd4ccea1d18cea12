"""The orbit viewer: a scene as it is now, seen from where you like, also while it is being optimised.

:func:`orbit_viewer` is the widget, :func:`figure`, :func:`png` and :func:`describe` show a ring of views without a kernel at
hand. All render through ``scene.render``, so any scene of this library will do.
"""
import io
import threading
import time
from collections.abc import Sequence
from html import escape

import torch
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image

from dreamlab.cameras import Cameras, orbit, ring
from dreamlab.export import to_uint8
from dreamlab.types import Images, Render
from dreamlab.widgets import to_png

MAPS = ("rgb", "alpha", "depth", "normal")
SIZES = (64, 128, 192, 256, 384, 512)  # pixels
DEPTHS = "viridis_r"  # near is bright
REACH = 0.7  # to either side of the origin: what is seen of a toy, in a ball of 0.85, lies there but for 2 % at most


@torch.no_grad()
def look(scene, cameras: Cameras, resolution: int) -> Render:
    """The scene over white, without gradients."""
    return scene.render(cameras, resolution, torch.ones(3))


def given(render: Render) -> list[str]:
    """Which of ``MAPS`` a render has."""
    return [name for name in MAPS if getattr(render, name) is not None]


def picture(render: Render, name: str, cameras: Cameras) -> Images:
    """One of ``MAPS`` as colours in [0, 1], over white but for alpha, which is white on black.

    Depth is bright where near, on a scale from ``radius`` - ``REACH`` to ``radius`` + ``REACH`` whatever is seen, so that views
    and steps compare; what lies beyond has the colour of the scale's end. A unit normal n of the world is the colour
    (n + 1) / 2. ValueError for a map that the scene does not give.
    """
    if name not in given(render):
        raise ValueError(f"this scene gives no {name!r}; it gives: {', '.join(given(render))}")
    values, alpha = getattr(render, name).detach().float().cpu(), render.alpha.detach().float().cpu()
    if name == "rgb":
        return values.clamp(0, 1)
    if name == "alpha":
        return values.clamp(0, 1).expand(*values.shape[:-1], 3)
    if name == "depth":
        scaled = (values - cameras.radius.cpu().reshape(-1, 1, 1, 1)) / (2 * REACH) + 0.5
        colours = torch.from_numpy(colormaps[DEPTHS](scaled[..., 0].clamp(0, 1).numpy())[..., :3]).float()
    else:
        colours = (values + 1) / 2
    return (alpha * colours + 1 - alpha).clamp(0, 1)


def sentence(render: Render, cameras: Cameras) -> str:
    """:func:`describe` for a render already made."""
    told = []
    for i, name in enumerate(cameras.view_names()):
        alpha, azimuth, elevation = render.alpha[i, ..., 0].float(), cameras.azimuth_deg[i], cameras.elevation_deg[i]
        seen, text = alpha > 0.5, f"azimuth {azimuth:.0f}, elevation {elevation:.0f} ({name}): covers {alpha.mean():.0%}"
        if seen.any():
            text += f", colour ({', '.join(f'{c:.2f}' for c in render.rgb[i][seen].mean(0))})"
            if render.depth is not None:
                depth = render.depth[i, ..., 0][seen]
                text += f", depth {depth.min():.2f} to {depth.max():.2f}"
        told.append(text)
    return "; ".join(told)


def draw(render: Render, cameras: Cameras, names: Sequence[str]) -> Figure:
    """:func:`figure` for a render already made."""
    pictures = [picture(render, name, cameras).numpy() for name in names]
    fig = Figure(figsize=(1.6 * len(cameras) + 1.3, 1.65 * len(names) + 0.7), dpi=80, layout="constrained")
    rows = fig.subplots(len(names), len(cameras), squeeze=False)
    for axes, name, images in zip(rows, names, pictures, strict=True):
        for ax, image in zip(axes, images, strict=True):
            ax.imshow(image, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
        axes[0].set_ylabel(name, fontsize=11)
        if name == "depth":
            scale = ScalarMappable(Normalize(-REACH, REACH), DEPTHS)
            bar = fig.colorbar(scale, ax=axes, aspect=10, pad=0.01, shrink=0.85, label="depth - radius")
            bar.ax.invert_yaxis()
    for ax, azimuth, name in zip(rows[0], cameras.azimuth_deg.tolist(), cameras.view_names(), strict=True):
        ax.set_title(f"{azimuth:.0f}°, {name}", fontsize=11)
    return fig


def figure(scene, cameras: Cameras | None = None, names: Sequence[str] | None = None, resolution: int = 96) -> Figure:
    """A column for each camera (None: six around, the first at the front), a row for each of ``names`` out of ``MAPS`` (None:
    rgb, normal and depth, as far as the scene gives them). Colours are those of :func:`picture`."""
    cameras = ring(6, radius=2.6) if cameras is None else cameras
    render = look(scene, cameras, resolution)
    return draw(render, cameras, [n for n in ("rgb", "normal", "depth") if n in given(render)] if names is None else names)


def png(scene, cameras: Cameras | None = None, names: Sequence[str] | None = None, resolution: int = 96) -> bytes:
    """:func:`figure` as a PNG."""
    return to_png(figure(scene, cameras, names, resolution))


def describe(scene, cameras: Cameras | None = None, resolution: int = 96) -> str:
    """For each camera: the share of the picture that is covered, and where alpha > 0.5 the mean colour and the depths."""
    cameras = ring(6, radius=2.6) if cameras is None else cameras
    return sentence(look(scene, cameras, resolution), cameras)


def orbit_viewer(scene, azimuth_deg: float = 0.0, elevation_deg: float = 15.0, radius: float = 2.6, fov_deg: float = 40.0,
                 resolution: int = 192, pause: float = 0.5):
    """The widget: choose a map, drag around the scene. ``.children`` are five controls, a line, a picture.

    ``scene`` may be several by name, such as what the parts of a method have made: a choice among them comes first then, and
    the maps are those that all of them give.

    In a loop, ``for step in run(stage): viewer.update(f"step {step.step}")`` shows the scene as it is by then, after a note of
    yours. It draws no sooner than ``pause`` seconds after the last picture, nor before four times as long has passed as that
    took, so that drawing costs the loop at most a fifth; ``update(now=True)`` always draws, for the end. It returns whether
    it drew. Where the kernel answers controls in a thread of their own, as ipykernel 7 with JupyterLab does, they work during
    the loop too, and what they show may then be a step half done.
    """
    import ipywidgets as W

    wide = W.Layout(width="40em")
    slide = lambda value, low, high, step, name: W.FloatSlider(  # noqa: E731
        value, min=low, max=high, step=step, description=name, readout_format=".2f" if step < 1 else ".0f", layout=wide)
    scenes = scene if isinstance(scene, dict) else {"": scene}
    if not scenes:
        raise ValueError("there is no scene to look at, got an empty dictionary: give one, or several by name")
    shown = [given(look(one, orbit(azimuth_deg, elevation_deg, radius, fov_deg), resolution)) for one in scenes.values()]
    parts = W.Dropdown(options=list(scenes), description="part", layout=W.Layout(width="24em"))
    maps = W.ToggleButtons(options=[name for name in MAPS if all(name in maps for maps in shown)], description="show")
    azimuth = slide(azimuth_deg % 360, 0, 360, 5, "azimuth")
    elevation, away = slide(elevation_deg, -85, 85, 5, "elevation"), slide(radius, 0.5 * radius, 2 * radius, 0.05, "radius")
    sizes = W.Dropdown(options=sorted({*SIZES, resolution}), value=resolution, description="pixels")
    line, image = W.HTML(), W.Image(format="png", width=384, height=384)
    lock, state = threading.Lock(), {"note": "", "until": 0.0}  # JupyterLab may answer the controls while a loop runs

    def show(change=None):
        with lock:
            start, cameras = time.monotonic(), orbit(azimuth.value, elevation.value, away.value, fov_deg)
            render = look(scenes[parts.value], cameras, sizes.value)
            file = io.BytesIO()
            Image.fromarray(to_uint8(picture(render, maps.value, cameras))[0]).save(file, "png")
            line.value, image.value = escape(state["note"] + sentence(render, cameras)), file.getvalue()
            end = time.monotonic()
            state["until"] = end + max(pause, 4 * (end - start))

    def update(note: str = "", now: bool = False) -> bool:
        if now or time.monotonic() >= state["until"]:
            state["note"] = note and f"{note}, "
            show()
            return True
        return False

    controls = (parts,) * (len(scenes) > 1) + (maps, azimuth, elevation, away, sizes)
    for control in controls:
        control.observe(show, "value")
    show()
    viewer = W.VBox([*controls, line, image])
    viewer.update = update
    return viewer
