"""Meshes for other programs are what these programs expect, come back the same, and are refused where they are nothing."""
import base64
import io
import json
import re
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from dreamlab import atlas, cli, meshfile, runs, scenes
from dreamlab.assets import save_asset_viewer, save_glb, save_obj, save_stl
from dreamlab.files import write_json
from dreamlab.mesh import Mesh, watertight
from dreamlab.meshfile import load_mesh
from dreamlab.noise import seeded
from dreamlab.scenes.base import Scene
from dreamlab.scenes.gaussians import Gaussians, save_ply
from dreamlab.scenes.picture import Picture
from dreamlab.toybox import render
from dreamlab.toybox.objects import Toy, colour_rgb

needs_xatlas = pytest.mark.skipif(not atlas.find_spec("xatlas"), reason="xatlas is not installed")
FILES = ("mesh.glb", "mesh.obj", "mesh.stl")


def paint(points):
    """Of the red mug: its black eyes look along +x, its handle stands towards -y, and up is +z."""
    fixed, main = Toy("mug").paint(points)
    return fixed + main[:, None] * torch.tensor(colour_rgb("red"))


def smooth(points):
    """A colour that tells the place."""
    return 0.5 + points / 2


@pytest.fixture(scope="module")
def mug() -> Mesh:
    return render.mesh(Toy("mug"), "red", 32)


@pytest.fixture(scope="module")
def tetrahedron() -> Mesh:
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    faces = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    return Mesh(vertices, faces, torch.tensor([[0.02, 0.2, 0.5], [1, 0, 0], [0, 1, 0], [0, 0, 1]]))


def volume(vertices, faces) -> float:
    """Positive where the triangles turn counter-clockwise, seen from outside."""
    a, b, c = vertices[faces].unbind(1)
    return float((a * torch.linalg.cross(b, c)).sum() / 6)


class Glb:
    """A reader of its own, by the specification of glTF 2.0."""

    def __init__(self, path):
        data = path.read_bytes()
        magic, version, length, size, kind = struct.unpack_from("<4sIII4s", data)
        assert (magic, version, length, kind) == (b"glTF", 2, len(data), b"JSON") and size % 4 == 0
        self.tree = json.loads(data[20 : 20 + size])
        rest, kind = struct.unpack_from("<I4s", data, 20 + size)
        self.body = data[28 + size :]
        assert kind == b"BIN\0" and rest == len(self.body) == self.tree["buffers"][0]["byteLength"] and rest % 4 == 0
        (self.primitive,) = self.tree["meshes"][0]["primitives"]

    def view(self, i):
        view = self.tree["bufferViews"][i]
        assert view["byteOffset"] % 4 == 0 and view["byteOffset"] + view["byteLength"] <= len(self.body)
        return self.body[view["byteOffset"] :][: view["byteLength"]]

    def array(self, i):
        about = self.tree["accessors"][i]
        width = {"SCALAR": 1, "VEC2": 2, "VEC3": 3}[about["type"]]
        values = np.frombuffer(self.view(about["bufferView"]), {5126: "<f4", 5125: "<u4"}[about["componentType"]])
        assert len(values) == about["count"] * width
        if "min" in about:
            assert values.reshape(-1, width).min(0).tolist() == about["min"]
            assert values.reshape(-1, width).max(0).tolist() == about["max"]
        return torch.from_numpy(values.astype("f4" if about["componentType"] == 5126 else "i8")).reshape(-1, width)

    def __getitem__(self, name):
        return self.array(self.primitive["attributes"][name])

    @property
    def faces(self):
        return self.array(self.primitive["indices"]).view(-1, 3)

    @property
    def image(self):
        assert self.tree["images"][0]["mimeType"] == "image/png"
        return np.asarray(Image.open(io.BytesIO(self.view(self.tree["images"][0]["bufferView"]))))

    def shown(self, uv):
        """What a viewer's bilinear filter finds, in [0, 1]; (0, 0) is the upper left corner of the picture."""
        image = torch.from_numpy(self.image / 255).float().movedim(-1, 0)[None]
        return F.grid_sample(image, (2 * uv - 1)[None, None], padding_mode="border", align_corners=False)[0, :, 0].T


def test_glb_of_vertex_colours(mug, tmp_path):
    said = save_glb(mug, tmp_path / "mesh.glb")
    file = Glb(tmp_path / "mesh.glb")
    assert said == f"{len(mug.faces)} triangles, colours at its {len(mug.vertices)} vertices"
    assert torch.equal(file.faces, mug.faces) and torch.equal(file["POSITION"], mug.vertices[:, [1, 2, 0]])
    assert file.primitive["attributes"].keys() == {"POSITION", "COLOR_0"} and "images" not in file.tree
    assert file.tree["extensionsUsed"] == ["KHR_materials_unlit"]
    assert file.tree["materials"][0]["extensions"] == {"KHR_materials_unlit": {}}
    assert [f.name for f in tmp_path.iterdir()] == ["mesh.glb"]


def test_colours_at_vertices_are_linear_light(tetrahedron, tmp_path):
    """IEC 61966-2-1: half of the display's range is 21.4 % of the light, and 0.02 lies on the straight piece."""
    save_glb(tetrahedron, tmp_path / "mesh.glb")
    colours = Glb(tmp_path / "mesh.glb")["COLOR_0"]
    assert colours[0].tolist() == pytest.approx([0.02 / 12.92, 0.0331048, 0.2140411], abs=1e-6)
    assert torch.equal(colours[1:], torch.eye(3))
    assert torch.allclose(meshfile.display(meshfile.linear(mug_greys := torch.rand(50, 3))), mug_greys, atol=1e-6)


def facing(vertices, dark) -> int:
    """The axis along which the dark parts lie, from the middle: 1, 2, 3 for +x, +y, +z, negative for the other way."""
    away = vertices[dark].mean(0) - (vertices.amax(0) + vertices.amin(0)) / 2
    i = int(away.abs().argmax())
    return (i + 1) * (1 if away[i] > 0 else -1)


@pytest.mark.parametrize("name", FILES[:2])
def test_the_front_faces_the_viewer_and_nothing_is_mirrored(mug, name, tmp_path):
    """glTF 2.0, Sec. 3.4: y is up, the front faces +z. The mug's eyes look there; its handle, on its own right, is at -x."""
    trimesh = pytest.importorskip("trimesh")
    (save_glb if name.endswith("glb") else save_obj)(mug, tmp_path / name)
    found = trimesh.load(tmp_path / name, force="mesh", process=False)
    vertices, faces = torch.tensor(found.vertices).float(), torch.tensor(found.faces)
    dark = mug.colours.amax(-1) < 0.1
    assert facing(mug.vertices, dark) == 1 and facing(vertices, dark) == 3
    assert vertices[:, 0].amin() < -0.8 < -0.6 < -vertices[:, 0].amax()  # the handle
    assert vertices[:, 1].amax() == pytest.approx(float(mug.vertices[:, 2].amax()))
    assert volume(vertices, faces) == pytest.approx(volume(mug.vertices, mug.faces)) and volume(mug.vertices, mug.faces) > 0.5
    wrong = vertices[:, [2, 1, 0]]  # a swap of two axes is no turn
    assert volume(wrong, faces) < 0 and facing(wrong, dark) != 3


@needs_xatlas
def test_glb_with_a_texture_shows_the_paint(mug, tmp_path):
    said = save_glb(mug, tmp_path / "mesh.glb", paint)
    file = Glb(tmp_path / "mesh.glb")
    assert said == f"{len(mug.faces)} triangles, a texture of 512 x 512"
    assert file.image.shape == (512, 512, 3) and len(file.faces) == len(mug.faces)
    assert file.primitive["attributes"].keys() == {"POSITION", "TEXCOORD_0"}
    places, uv = file["POSITION"][:, [2, 0, 1]], file["TEXCOORD_0"]
    assert torch.equal(places[file.faces], mug.vertices[mug.faces])
    assert uv.amin() >= 0 and uv.amax() <= 1
    # at the vertices whose surroundings have one colour, so that no border lies within the filter
    around = [paint(places + 0.03 * d) - paint(places) for d in torch.cat([torch.eye(3), -torch.eye(3)])]
    plain = torch.stack(around).abs().amax((0, 2)) == 0
    error = (file.shown(uv) - paint(places)).abs().amax(-1)[plain]
    assert plain.sum() > 1000 and error.amax() < 2 / 255
    flipped = (file.shown(uv * torch.tensor([1, -1]) + torch.tensor([0, 1])) - paint(places)).abs().amax(-1)[plain]
    assert (flipped > 2 / 255).float().mean() > 0.2


@needs_xatlas
def test_no_seam_is_seen_anywhere_on_the_surface(mug, tmp_path):
    """A filter at any point of any triangle, at charts' borders too, finds what paint says there."""
    save_glb(mug, tmp_path / "mesh.glb", smooth, texels=512)
    file = Glb(tmp_path / "mesh.glb")
    weights = torch.rand(6, 3, generator=seeded(0)).log()
    weights = torch.cat([weights / weights.sum(-1, keepdim=True), torch.eye(3), (1 - torch.eye(3)) / 2])  # corners and edges
    mixed = lambda x: torch.einsum("wk,fkc->wfc", weights, x[file.faces]).flatten(0, 1)  # noqa: E731
    error = (file.shown(mixed(file["TEXCOORD_0"])) - smooth(mixed(file["POSITION"])[:, [2, 0, 1]])).abs().amax(-1)
    assert error.amax() < 1 / 255 and error.mean() < 0.4 / 255


def test_baking_puts_each_colour_where_its_place_lies():
    """A square of two triangles over the left half of the picture: columns are x, rows y from above. Beyond it the first texel
    has the colour of the edge, the gutter goes on with that, and farther away there is the mean."""
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    image = atlas.bake(corners, faces, corners[:, :2] * torch.tensor([0.5, 1]), lambda p: p * torch.tensor([0.8, 0.4, 0]), 32)
    x, y = (torch.arange(16) + 0.5) / 16, (torch.arange(32) + 0.5) / 32
    assert torch.allclose(image[:, :16, 0], (0.8 * x).expand(32, 16), atol=1e-6)
    assert torch.allclose(image[:, :16, 1], (0.4 * y)[:, None].expand(32, 16), atol=1e-6)
    assert torch.allclose(image[:, 16:21, 0], torch.tensor(0.8), atol=1e-6)
    assert torch.allclose(image[:, 21:], image[:, :17].mean((0, 1)), atol=1e-6)


def test_a_triangle_between_the_texels_leaves_its_colour_too():
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0]])
    image = atlas.bake(corners, torch.tensor([[0, 1, 2], [0, 0, 0]]), 0.52 + 0.001 * corners[:, :2], torch.ones_like, 16)
    assert torch.equal(image, torch.ones(16, 16, 3))


@pytest.mark.parametrize("wrong, message", [
    (lambda p: p[:, :2], r"paint must give a colour for each of \d+ points, .* got a tensor \(\d+, 2\)"),
    (lambda p: p / 0, r"the colours that paint gives have \d+ of \d+ values that are not finite: look at the scene"),
])
@needs_xatlas
def test_a_paint_that_gives_no_colours_is_named(tetrahedron, wrong, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save_glb(tetrahedron, tmp_path / "mesh.glb", wrong)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("save", [save_glb, save_obj])
def test_without_xatlas_the_vertices_are_coloured_and_it_is_said(tetrahedron, save, tmp_path, monkeypatch):
    monkeypatch.setattr(atlas, "find_spec", lambda name: None)
    said = save(tetrahedron, tmp_path / "painted", smooth)
    save(tetrahedron, tmp_path / "plain")
    assert said.endswith('vertices (for a texture: pip install -e ".[export]")')
    assert (tmp_path / "painted").read_bytes() == (tmp_path / "plain").read_bytes()


@needs_xatlas
def test_obj_with_a_texture(mug, tmp_path):
    """By a reader of its own; the picture's rows are counted from below here."""
    save_obj(mug, tmp_path / "a red mug.obj", paint, texels=256)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a red mug.obj", "a_red_mug.mtl", "a_red_mug.png"]
    assert (tmp_path / "a_red_mug.mtl").read_text().splitlines()[-1] == "map_Kd a_red_mug.png"
    rows = [line.split() for line in (tmp_path / "a red mug.obj").read_text().splitlines()]
    assert rows[0] == ["mtllib", "a_red_mug.mtl"]
    v, vt = (torch.tensor([list(map(float, row[1:])) for row in rows if row[0] == kind]) for kind in ("v", "vt"))
    f = torch.tensor([[list(map(int, corner.split("/"))) for corner in row[1:]] for row in rows if row[0] == "f"]) - 1
    assert torch.equal(v, mug.vertices[:, [1, 2, 0]]) and torch.equal(f[..., 0], mug.faces)
    with Image.open(tmp_path / "a_red_mug.png") as image:
        picture = torch.from_numpy(np.array(image)).float() / 255
    column, row = (vt[f[..., 1]].mean(1) * torch.tensor([1, -1]) * 256 + torch.tensor([0, 256])).long().unbind(-1)
    error = (picture[row, column] - paint(mug.vertices[mug.faces].mean(1))).abs().amax(-1)
    assert (error < 2 / 255).float().mean() > 0.95


@pytest.mark.parametrize("painted", [pytest.param(True, marks=needs_xatlas), False])
@pytest.mark.parametrize("name", FILES)
def test_what_is_saved_comes_back(mug, name, painted, tmp_path):
    """Places, triangles, colours, and closed; STL has no colours, and millimetres."""
    pytest.importorskip("trimesh")
    if name == "mesh.stl":
        save_stl(mug, tmp_path / name, millimetres=1.0)
    else:
        {"mesh.glb": save_glb, "mesh.obj": save_obj}[name](mug, tmp_path / name, paint if painted else None)
    back = load_mesh(tmp_path / name)
    assert len(back.vertices) == len(mug.vertices) and len(back.faces) == len(mug.faces) and watertight(back)
    assert volume(back.vertices, back.faces) == pytest.approx(volume(mug.vertices, mug.faces), rel=1e-4)
    order = mug.vertices.unique(dim=0, return_inverse=True)[1]
    assert torch.allclose(back.vertices[order], mug.vertices, atol=1e-6)
    true = torch.full((1, 3), 0.5) if name == "mesh.stl" else mug.colours
    error = (back.colours[order] - true).abs().amax(-1)
    assert error.quantile(0.95) < 2 / 255 if painted else error.amax() < 1 / 255


@needs_xatlas
def test_a_library_reads_the_texture(mug, tmp_path):
    trimesh = pytest.importorskip("trimesh")
    save_glb(mug, tmp_path / "mesh.glb", smooth, texels=256)
    (part,) = trimesh.load(tmp_path / "mesh.glb", process=False).geometry.values()
    assert len(part.faces) == len(mug.faces) and part.visual.material.baseColorTexture.size == (256, 256)
    found = torch.from_numpy(part.visual.to_color().vertex_colors[:, :3] / 255)
    assert (found - smooth(torch.from_numpy(part.vertices)[:, [2, 0, 1]])).abs().amax() < 0.04  # it takes the nearest texel


@pytest.mark.parametrize("name, painted", [("vertex colours", False), pytest.param("a texture", True, marks=needs_xatlas)])
def test_the_validator_of_khronos_finds_nothing(mug, name, painted, tmp_path):
    """`npm install gltf-validator`, here or with NODE_PATH where it is."""
    where = ["node", "-e", 'require.resolve("gltf-validator")']
    if not shutil.which("node") or subprocess.run(where, capture_output=True).returncode:
        pytest.skip("node with the package gltf-validator is not installed")
    save_glb(mug, tmp_path / "mesh.glb", paint if painted else None)
    script = ('require("gltf-validator").validateBytes(new Uint8Array(require("fs").readFileSync(process.argv[1])))'
              '.then(report => console.log(JSON.stringify(report)))')
    out = subprocess.run(["node", "-e", script, tmp_path / "mesh.glb"], check=True, capture_output=True, text=True).stdout
    report = json.loads(out)
    assert report["issues"]["messages"] == [] and report["info"]["totalTriangleCount"] == len(mug.faces)
    assert report["info"]["hasTextures"] == painted and not report["info"].get("extensionsUnsupported")


def test_stl_is_in_millimetres(tetrahedron, tmp_path):
    assert save_stl(tetrahedron, tmp_path / "mesh.stl", millimetres=20.0) == "4 triangles, 20 x 20 x 20 mm"
    data = (tmp_path / "mesh.stl").read_bytes()
    assert len(data) == 84 + 4 * 50 and data[80:84] == struct.pack("<I", 4) and not data.startswith(b"solid")
    rows = np.frombuffer(data, np.dtype([("n", "<f4", 3), ("p", "<f4", (3, 3)), ("_", "<u2")]), 4, 84)
    assert np.array_equal(rows["p"], 20 * tetrahedron.vertices[tetrahedron.faces].numpy())
    assert np.allclose(rows["n"], [[0, 0, -1], [0, -1, 0], [-1, 0, 0], [3**-0.5] * 3])  # outwards


def test_what_no_printer_can_print_is_refused(tetrahedron, tmp_path):
    open_ = Mesh(tetrahedron.vertices, tetrahedron.faces[:3], tetrahedron.colours)
    with pytest.raises(ValueError, match="a printer needs a mesh without holes, .* got one of 3 triangles .*: save it as .glb"):
        save_stl(open_, tmp_path / "mesh.stl")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("change, message", [
    ({"faces": torch.zeros(0, 3, dtype=torch.long)}, "the mesh has no triangles, 4 vertices: make it of a scene"),
    ({"faces": torch.tensor([[0, 1, 4]])}, "the mesh has 4 vertices, and faces of those from 0 to 4: "),
    ({"vertices": torch.full((4, 3), torch.nan)}, "the vertices of the mesh have 12 of 12 values that are not finite: "),
    ({"colours": torch.full((4, 3), torch.inf)}, "the colours of the mesh have 12 of 12 values that are not finite: "),
])
@pytest.mark.parametrize("save", [save_glb, save_obj, save_stl])
def test_no_broken_mesh_is_written(tetrahedron, change, message, save, tmp_path):
    with pytest.raises(ValueError, match=message):
        save(Mesh(**{**vars(tetrahedron), **change}), tmp_path / "mesh")
    assert not list(tmp_path.iterdir())


# what others write


def test_parts_of_a_scene_are_joined_where_they_stand(tmp_path):
    """A box moved by its node, a mirrored one, and a material's colour, which is linear light."""
    trimesh = pytest.importorskip("trimesh")
    scene, box = trimesh.Scene(), trimesh.creation.box((1, 1, 1))
    material = trimesh.visual.material.PBRMaterial(baseColorFactor=[55, 55, 255, 255])
    box.visual = trimesh.visual.TextureVisuals(material=material)
    scene.add_geometry(box, transform=trimesh.transformations.translation_matrix([0, 0, 3]))
    mirror = np.diag([-1.0, 1, 1, 1])
    mirror[0, 3] = 5
    scene.add_geometry(trimesh.creation.box((1, 1, 1)), transform=mirror)
    scene.export(tmp_path / "two.glb")
    mesh = load_mesh(tmp_path / "two.glb")
    assert len(mesh.faces) == 24 and len(mesh.vertices) == 16 and watertight(mesh)
    assert volume(mesh.vertices, mesh.faces) == pytest.approx(2)
    first = mesh.vertices[:, 0] > 2  # glTF's z is our x, its x our y
    assert first.sum() == 8 and mesh.vertices[~first, 1].amin() == pytest.approx(4.5)
    assert mesh.colours[first][0].tolist() == pytest.approx([0.5029, 0.5029, 1], abs=2e-3)
    small = load_mesh(tmp_path / "two.glb", radius=0.8).vertices
    assert small.norm(dim=-1).amax() == pytest.approx(0.8) and (small.amin(0) + small.amax(0)).abs().amax() < 1e-6


def test_a_ply_with_colours_stays_z_up_and_a_plain_one_is_grey(tetrahedron, tmp_path):
    trimesh = pytest.importorskip("trimesh")
    part = trimesh.Trimesh(tetrahedron.vertices.numpy(), tetrahedron.faces.numpy(), process=False)
    part.export(tmp_path / "plain.ply")
    part.visual.vertex_colors = np.array([[10, 20, 30, 255]] * 4, np.uint8)
    part.export(tmp_path / "coloured.ply")
    plain, coloured = (load_mesh(tmp_path / f"{name}.ply") for name in ("plain", "coloured"))
    assert torch.equal(plain.vertices, tetrahedron.vertices.unique(dim=0)) and torch.all(plain.colours == 0.5)
    assert torch.allclose(coloured.colours, torch.tensor([10, 20, 30]) / 255)


OBJ = "v 0 0 0\nv 1 0 0\nv 0 1 {}\n"


@pytest.mark.parametrize("name, content, message", [
    ("a.glb", b"", "a.glb is empty, 0 bytes: name a .glb"),
    ("a.glb", b"glTF" + bytes(30), "a.glb cannot be read .*: name a .glb, .obj, .ply or .stl of triangles"),
    ("a.stl", b"no mesh at all", "a.stl (cannot be read|holds no triangles) .*: name a .glb"),
    ("a.obj", OBJ.format(0).encode(), "a.obj (cannot be read|holds no triangles) .*: name a .glb"),
    ("a.obj", (OBJ.format("nan") + "f 1 2 3\n").encode(), "vertices of .*a.obj have . of 9 values that are not finite: name"),
    ("a.fbx", b"Kaydara", "a.fbx is of no format that is read here: name a .glb, .obj, .ply or .stl"),
])
def test_files_without_a_mesh_are_named(name, content, message, tmp_path):
    pytest.importorskip("trimesh")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_mesh(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_nothing_is_no_mesh(tetrahedron, tmp_path, monkeypatch):
    trimesh = pytest.importorskip("trimesh")
    with pytest.raises(FileNotFoundError, match="there is no file .*none.glb: name a .glb"):
        load_mesh(tmp_path / "none.glb")
    tree = json.dumps({"asset": {"version": "2.0"}, "scenes": [{"nodes": []}], "scene": 0}).encode()
    tree += b" " * (-len(tree) % 4)
    head = struct.pack("<4sII", b"glTF", 2, 20 + len(tree)) + struct.pack("<I4s", len(tree), b"JSON")
    (tmp_path / "empty scene.glb").write_bytes(head + tree)
    save_ply(Gaussians.ball(9, generator=seeded(0)), tmp_path / "gaussians.ply")
    for name in ("empty scene.glb", "gaussians.ply"):
        with pytest.raises(ValueError, match=f"{name} (holds no triangles|cannot be read) "):
            load_mesh(tmp_path / name)
    save_glb(tetrahedron, tmp_path / "mesh.glb")
    monkeypatch.setattr(meshfile, "MOST", 3)
    with pytest.raises(ValueError, match="mesh.glb has 4 triangles, at most 3 are read: take fewer"):
        load_mesh(tmp_path / "mesh.glb")
    monkeypatch.setattr(meshfile, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'trimesh is needed, which is not installed: pip install -e "\.\[export\]"'):
        load_mesh(tmp_path / "mesh.glb")
    assert trimesh


# the page


def held(page: str, name: str) -> bytes:
    return base64.b64decode(re.search(rf'{name}: "([^"]*)"', page)[1])


def test_the_page_holds_the_files_and_asks_nothing_of_the_network(tetrahedron, tmp_path):
    gaussians, title = Gaussians.ball(9, generator=seeded(0)), '<script>alert("$glb")</script> & a père\'s mug'
    save_asset_viewer(tmp_path / "both.html", tetrahedron, gaussians, title=title)
    page = (tmp_path / "both.html").read_text(encoding="utf-8")
    save_glb(tetrahedron, tmp_path / "mesh.glb")
    save_ply(gaussians, tmp_path / "gaussians.ply")
    assert held(page, "glb") == (tmp_path / "mesh.glb").read_bytes()
    assert held(page, "ply") == (tmp_path / "gaussians.ply").read_bytes()
    assert page.count("<script") == 1 and "&lt;script&gt;" in page
    assert re.search(r"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'", page)
    assert not re.search(r"https?:|@import|url\(|\bsrc=|href=|fetch\(|import ", page)
    save_asset_viewer(tmp_path / "one.html", gaussians=gaussians)
    assert held((tmp_path / "one.html").read_text(encoding="utf-8"), "glb") == b""
    with pytest.raises(ValueError, match="a page needs something to turn, got no mesh and no gaussians: give one or both"):
        save_asset_viewer(tmp_path / "none.html")


# from a run


class Solid(Scene):
    """A scene that is a tetrahedron, with a colour for each place."""

    def __init__(self, size: torch.Tensor):
        self.size = size

    def parameters(self):
        return {"size": self.size}

    @classmethod
    def rebuild(cls, config, leaves, prior=None):
        return cls(leaves["size"])

    def mesh(self):
        corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]) * self.size
        faces = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
        return Mesh(corners, faces, smooth(corners))

    def paint(self, points):
        return smooth(points)


def made(home: Path, scene: Scene, **settings) -> Path:
    scene.save(home / "scene.safetensors")
    if settings:
        write_json(home / "settings.json", settings)
    return home


def test_a_run_is_exported_from_the_shell(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(scenes.SCENES, "Solid", Solid)
    home = made(tmp_path / "solid", Solid(torch.tensor(0.5)), prompt="a red wedge")
    assert cli.main(["export", str(home), "--glb", "--obj", "--stl", "--page"]) == 0
    names = {"mesh.glb", "mesh.obj", "mesh.stl", "model.html", "scene.safetensors", "settings.json"}
    textured = {"mesh.mtl", "mesh.png"} if atlas.find_spec("xatlas") else set()
    assert {f.name for f in home.iterdir()} == names | textured
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == [str(home / name) for name in (*FILES, "model.html")]
    assert "(4 triangles, 25 x 25 x 25 mm)" in said[2]
    assert "<title>a red wedge</title>" in (home / "model.html").read_text(encoding="utf-8")
    assert runs.export(home).keys() == {home / "mesh.glb", home / "model.html"}
    with pytest.raises(ValueError, match="a .ply holds Gaussians, and .*scene.safetensors a Solid: choose --glb, --obj, --stl"):
        runs.export(home, ["ply"])
    with pytest.raises(ValueError, match="a scene is exported as glb, obj, stl, ply, page, got 'fbx': choose of these"):
        runs.export(home, ["fbx"])


def test_gaussians_say_what_they_can_be(tmp_path, capsys):
    home = made(tmp_path / "ball", Gaussians.ball(60, generator=seeded(0)))
    assert cli.main(["export", str(home / "scene.safetensors")]) == 0
    assert [Path(line.split()[0]).name for line in capsys.readouterr().out.splitlines()] == ["gaussians.ply", "model.html"]
    page = (home / "model.html").read_text(encoding="utf-8")
    assert len(held(page, "ply")) > 60 * 68 and held(page, "glb") == b"" and "<title>ball</title>" in page
    assert cli.main(["export", str(home), "--stl"]) == 2
    assert capsys.readouterr().err == (
        "dreamlab: Gaussians have no surface to make a mesh of: export them as a .ply (--ply) or a page (--page)\n")


def test_what_cannot_be_exported_is_said_in_a_line(tmp_path, capsys):
    """Pictures; a folder without a scene; a scene without a surface."""
    made(tmp_path / "picture", Picture.grey(8))
    (tmp_path / "empty").mkdir()
    for name, message in (("picture", "holds pictures, which have no sides to export: name a run of something solid"),
                          ("empty", "holds no scene of a run that is done: name the folder of one, of a part, or a scene."),
                          ("nowhere", "holds no scene of a run that is done")):
        assert cli.main(["export", str(tmp_path / name)]) == 2
        assert message in (said := capsys.readouterr().err) and said.count("\n") == 1
    for ask in (lambda: Picture.grey(8).mesh(), lambda: Picture.grey(8).paint(torch.zeros(1, 3))):
        with pytest.raises(ValueError, match="a Picture has no surface to .*: name a scene that has one"):
            ask()


def test_the_last_part_of_a_run_is_taken(tmp_path, monkeypatch):
    """In its method's order, which neither the alphabet nor the clock gives; a part that was renamed is none of it."""
    class Two:
        toy = {"second": None, "first": None}

    monkeypatch.setitem(runs.METHODS, "two", Two)
    scene = Gaussians.ball(9, generator=seeded(0))
    for name in ("first", "second", "first-0123456789ab"):
        made(tmp_path / name, scene, method="two")
    assert runs.scene_of(tmp_path) == tmp_path / "first" / "scene.safetensors"
    (tmp_path / "first" / "scene.safetensors").unlink()
    assert runs.scene_of(tmp_path) == tmp_path / "second" / "scene.safetensors"
    for name in ("second", "first-0123456789ab"):
        (tmp_path / name / "settings.json").write_text("{")
    with pytest.raises(ValueError, match="name the folder of one, of its parts first-0123456789ab, second, or a scene"):
        runs.scene_of(tmp_path)
