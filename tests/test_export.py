"""Files are what others expect of them, and none is ever left half written."""
import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from dreamlab.export import COLUMNS, SH0, contact_sheet, load_ply, save_ply, save_turntable
from dreamlab.noise import seeded
from dreamlab.scenes.gaussians import Gaussians


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
