"""Files are what others expect of them, and none is ever left half written."""
import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from dreamlab.cameras import orbit
from dreamlab.export import contact_sheet, save_turntable, save_viewer
from dreamlab.noise import seeded
from dreamlab.scenes.gaussians import COLUMNS, SH0, Gaussians, load_ply, save_ply
from dreamlab.scenes.picture import Picture


@pytest.fixture
def scene():
    g = seeded(0)
    return Gaussians(torch.randn(37, 3, generator=g), torch.randn(37, 4, generator=g),
                     0.01 + torch.rand(37, 3, generator=g), 0.05 + 0.9 * torch.rand(37, generator=g),
                     0.05 + 0.9 * torch.rand(37, 3, generator=g))


def read(path) -> dict[str, np.ndarray]:
    """A reader of its own: the header gives the record type, numpy the columns."""
    data = path.read_bytes()
    end = data.index(b"end_header\n") + len(b"end_header\n")
    lines = data[:end].decode("ascii").split("\n")
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    n = next(int(line.split()[2]) for line in lines if line.startswith("element vertex"))
    properties = [line.split()[1:] for line in lines if line.startswith("property")]
    record = np.dtype([(name, {"float": "<f4"}[kind]) for kind, name in properties])
    assert len(data) - end == n * record.itemsize
    table = np.frombuffer(data, record, n, end)
    return {name: table[name] for name in record.names}


def test_ply_has_the_inria_layout(scene, tmp_path):
    save_ply(scene, tmp_path / "scene.ply")
    columns = read(tmp_path / "scene.ply")
    assert list(columns) == COLUMNS == [
        "x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2",
        "rot_0", "rot_1", "rot_2", "rot_3"]
    close = lambda name, x: np.allclose(columns[name], x.detach().numpy(), atol=1e-5)  # noqa: E731
    assert close("y", scene.means[:, 1]) and not columns["nx"].any() and close("rot_0", scene.quats[:, 0])
    assert close("opacity", scene.opacities.logit()) and close("scale_2", scene.scales[:, 2].log())
    assert close("f_dc_1", (scene.colors[:, 1] - 0.5) / 0.28209479)
    assert [f.name for f in tmp_path.iterdir()] == ["scene.ply"]


def test_ply_equals_gsplats(scene, tmp_path):
    gsplat = pytest.importorskip("gsplat")
    raw = {name: p.detach() for name, p in scene.parameters().items()}
    save_ply(scene, tmp_path / "ours.ply")
    f_dc = ((scene.colors.detach() - 0.5) / SH0)[:, None]
    gsplat.export_splats(raw["means"], raw["scales"], raw["quats"], raw["opacities"], f_dc,
                         torch.zeros(37, 0, 3), save_to=str(tmp_path / "theirs.ply"))
    ours, theirs = read(tmp_path / "ours.ply"), read(tmp_path / "theirs.ply")
    assert set(ours) - set(theirs) == {"nx", "ny", "nz"} and set(theirs) <= set(ours)
    for name in theirs:
        assert np.array_equal(ours[name], theirs[name]), name


def test_ply_is_read_by_a_library(scene, tmp_path):
    """trimesh knows nothing of Gaussians: each column is there by its name and means what a 3DGS viewer takes it for."""
    trimesh = pytest.importorskip("trimesh")
    save_ply(scene, tmp_path / "scene.ply")
    cloud = trimesh.load(tmp_path / "scene.ply")
    columns = cloud.metadata["_ply_raw"]["vertex"]["data"]
    assert list(columns.dtype.names) == COLUMNS and len(columns) == 37
    raw = {name: value.numpy() for name, value in scene.state_dict().items()}
    table = lambda *names: np.stack([columns[name] for name in names], -1)  # noqa: E731
    assert np.array_equal(cloud.vertices, raw["means"]) and np.array_equal(table("x", "y", "z"), raw["means"])
    assert np.array_equal(table("rot_0", "rot_1", "rot_2", "rot_3"), raw["quats"])
    assert np.array_equal(table("scale_0", "scale_1", "scale_2"), raw["scales"])
    assert np.array_equal(columns["opacity"], raw["opacities"]) and not table("nx", "ny", "nz").any()
    shown = {"scales": np.exp(table("scale_0", "scale_1", "scale_2")), "opacities": 1 / (1 + np.exp(-columns["opacity"])),
             "colors": 0.5 + table("f_dc_0", "f_dc_1", "f_dc_2") * 0.5 / np.sqrt(np.pi)}
    for name, values in shown.items():
        assert np.allclose(values, getattr(scene, name).detach().numpy(), rtol=1e-6, atol=1e-6), name


def test_ply_comes_back(scene, tmp_path):
    save_ply(scene, tmp_path / "scene.ply")
    back = load_ply(tmp_path / "scene.ply").parameters()
    for name, p in scene.parameters().items():
        assert torch.allclose(back[name], p, atol=1e-4) if name == "colors" else torch.equal(back[name], p), name


def test_ply_of_others_is_read_by_column_name(scene, tmp_path):
    """Other order, no normals, direction-dependent colour: what other trainers write."""
    save_ply(scene, tmp_path / "ours.ply")
    columns = {k: v for k, v in reversed(read(tmp_path / "ours.ply").items()) if k[0] != "n"}
    columns["f_rest_0"] = np.ones(37, "<f4")
    head = "ply\nformat binary_little_endian 1.0\ncomment other\nelement vertex 37\n"
    head += "".join(f"property float {name}\n" for name in columns) + "end_header\n"
    (tmp_path / "theirs.ply").write_bytes(head.encode() + np.stack(list(columns.values()), 1).tobytes())
    one, two = (load_ply(tmp_path / name).parameters() for name in ("ours.ply", "theirs.ply"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_bad_ply_is_named(scene, tmp_path):
    path = tmp_path / "scene.ply"
    save_ply(scene, path)
    data = path.read_bytes()
    for broken, message in ((data[:-4], "cut short"),
                            (data.replace(b" opacity", b" opacitx"), r"lacks .*\['opacity'\]"),
                            (b"solid nothing", "binary little-endian")):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=message):
            load_ply(path)


@pytest.mark.parametrize("suffix, tolerance", [(".gif", 12), (".webp", 12)])
def test_turntable_shows_its_frames(suffix, tolerance, tmp_path):
    colours = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [2, -1, 0.5]])
    save_turntable(colours[:, None, None].expand(4, 16, 24, 3), tmp_path / f"turn{suffix}", fps=10)
    with Image.open(tmp_path / f"turn{suffix}") as image:
        frames = [(np.asarray(f.convert("RGB")), f.info["duration"]) for f in ImageSequence.Iterator(image)]
        assert image.info["loop"] == 0
    assert len(frames) == 4
    for (frame, duration), colour in zip(frames, colours.clamp(0, 1), strict=True):
        assert frame.shape == (16, 24, 3) and duration == 100
        assert np.abs(frame[8, 12] - 255 * colour.numpy()).max() <= tolerance
    assert [f.name for f in tmp_path.iterdir()] == [f"turn{suffix}"]


def test_bad_turntables_are_named(tmp_path):
    with pytest.raises(ValueError, match="a .gif or a .webp, got .*turn.mp4"):
        save_turntable(torch.zeros(2, 4, 4, 3), tmp_path / "turn.mp4")
    with pytest.raises(ValueError, match="0 frames"):
        save_turntable(torch.zeros(0, 4, 4, 3), tmp_path / "turn.gif")
    assert not list(tmp_path.iterdir())


class Page(HTMLParser):
    """The text and the attributes of every element."""

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.elements = None, {}, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.open = tag
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        self.open = None

    def handle_data(self, data):
        self.texts[self.open] = self.texts.get(self.open, "") + data


def sheet(path) -> np.ndarray:
    data = re.search(r'"data:image/webp;base64,([^"]+)"', path.read_text(encoding="utf-8"))[1]
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.format == "WEBP"
        return np.asarray(image.convert("RGB")) / 255


def test_viewer_holds_every_view_in_place(scene, tmp_path):
    save_viewer(scene, tmp_path / "turn.html", views=3, elevations_deg=(50, -10.5), resolution=48, quality=100, progress=False)
    tiles = sheet(tmp_path / "turn.html").reshape(2, 48, 3, 48, 3).swapaxes(1, 2)
    assert "views = 3, tilts = [-10.5, 50.0], size = 48" in (tmp_path / "turn.html").read_text()
    true = {(row, column): scene.render(orbit(column * 120.0, tilt, 2.6), 48, torch.ones(3)).rgb[0].detach().numpy()
            for row, tilt in enumerate((-10.5, 50)) for column in range(3)}
    for place in true:
        error = {other: np.abs(tiles[place] - true[other]).mean() for other in true}
        assert min(error, key=error.get) == place and error[place] < 0.03
    assert [f.name for f in tmp_path.iterdir()] == ["turn.html"]


def test_viewer_asks_nothing_of_the_network(tmp_path):
    title = '<script>alert("$size")</script> & a père\'s mug'
    save_viewer(Picture.grey(8), tmp_path / "a.html", title, views=2, elevations_deg=[0], resolution=8, progress=False)
    page = Page((tmp_path / "a.html").read_text(encoding="utf-8"))
    assert page.texts["title"] == page.texts["h1"] == title  # as text: no second script
    assert [tag for tag, _ in page.elements].count("script") == 1
    policy, = (a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;") and "http" not in policy
    assert not re.search(r"https?://|@import|url\(", (tmp_path / "a.html").read_text(encoding="utf-8"))
    assert not {"src", "href", "srcset"} & {name for _, a in page.elements for name in a}
    view, = (a for tag, a in page.elements if tag == "canvas")
    assert view["role"] == "img" and view["tabindex"] == "0"  # the script gives it its label
    assert sum(tag == "label" for tag, _ in page.elements) == sum(tag == "input" for tag, _ in page.elements) == 2


def test_bad_viewers_are_named(scene, tmp_path):
    for wrong in (dict(elevations_deg=[]), dict(views=64, resolution=256)):
        with pytest.raises(ValueError, match="at most 16383 pixels either way; got"):
            save_viewer(scene, tmp_path / "a.html", **wrong, progress=False)
    with pytest.raises(ValueError, match="elevation_deg must lie strictly between -90 and 90, got 90"):
        save_viewer(scene, tmp_path / "a.html", elevations_deg=[90], progress=False)
    assert not list(tmp_path.iterdir())


def test_contact_sheet_holds_every_picture_in_place():
    rows = [torch.rand(3, 20, 20, 3), torch.rand(2, 30, 10, 3)]
    sheet = contact_sheet(rows, ["ours", "truth"], gap=4)
    pixels = torch.from_numpy(np.asarray(sheet).copy())
    assert sheet.size == (3 * 24 + 4, (20 + 22) + (30 + 22))
    for row, top, width in ((rows[0], 18, 20), (rows[1], 42 + 18, 10)):
        for i, picture in enumerate(row):
            left = 4 + i * (width + 4)
            there = pixels[top:top + picture.shape[0], left:left + width]
            assert torch.equal(there, (picture * 255).round().to(torch.uint8))
    assert (pixels[:18] < 128).any() and (pixels[42:60] < 128).any()  # the labels
    with pytest.raises(ValueError, match="2 rows and 1 labels"):
        contact_sheet(rows, ["ours"])
