"""A mesh that somebody has, painted: its shape stays to the last bit, its texture learns, and files that are none are named."""
import json
import os
import shutil

import pytest
import torch
from zoo import PYRAMID, pyramid

from dreamlab import meshfile, pipeline, runs, scenes
from dreamlab.assets import save_glb
from dreamlab.cameras import ring
from dreamlab.cli import main
from dreamlab.methods import METHODS
from dreamlab.noise import stream
from dreamlab.pipeline import work
from dreamlab.priors.diffusion import DiffusionPrior
from dreamlab.report import Solid
from dreamlab.scenes.base import Begin
from dreamlab.scenes.textured import Textured, given, texture

pytest.importorskip("trimesh")
SMALL = {"resolution": 16, "views": 2, "start.levels": 2, "start.finest": 32, "start.hidden": 8}


@pytest.fixture(scope="module")
def prior():
    return DiffusionPrior.load()


def begin(prior, earlier=pipeline.alone):
    return Begin("a red mug", prior, stream(0, "start"), earlier)


def ask(file=None, **changes):
    return METHODS["texture-mesh"].ask("a red mug", changes=SMALL | {"steps": 3, "start.file": file or pyramid()} | changes)


def test_the_shape_stays_to_the_last_bit_and_the_texture_moves(prior, tmp_path):
    """Through training, a file and a run that goes on; the checkpoint holds the texture alone."""
    mesh = meshfile.load_mesh(pyramid(), 0.8)
    assert mesh.faces.shape == (4, 3) and mesh.vertices.norm(dim=1).max() == pytest.approx(0.8)
    for item in work(ask(), tmp_path / "whole", prior=prior):
        before = {name: leaf.clone() for name, leaf in item.stage.scene.state_dict().items()}
        assert {"vertices", "faces"} <= before.keys() - item.stage.scene.parameters().keys()
        list(item.run(progress=False))
        assert all(not torch.equal(leaf, before[name]) for name, leaf in item.stage.scene.parameters().items())
        scene = item.stage.scene
    kept = scenes.load(tmp_path / "whole/scene.safetensors")
    for vertices, faces in (scene.surface(), kept.surface()):
        assert torch.equal(vertices, mesh.vertices) and torch.equal(faces, mesh.faces) and not vertices.requires_grad
    saved = pipeline.read(tmp_path / "whole/checkpoint.safetensors")[2]
    assert not [name for name in saved if "vertices" in name or "faces" in name]

    for item in work(ask(), tmp_path / "stopped", prior=prior):
        next(item.run(every=1, progress=False))
        break
    for item in work(ask(), tmp_path / "stopped", prior=prior):
        assert len(list(item.run(progress=False))) == 2
    again = scenes.load(tmp_path / "stopped/scene.safetensors").state_dict()
    assert all(torch.equal(leaf, again[name]) for name, leaf in kept.state_dict().items())


def test_it_begins_grey_or_in_the_files_colours(prior):
    mesh = meshfile.load_mesh(pyramid(), 0.8)
    grey, coloured = (given(begin(prior), file=pyramid(), coloured=x, levels=4, finest=64, hidden=32) for x in (False, True))
    assert (grey.paint(mesh.vertices) - 0.5).abs().max() < 0.15
    assert (coloured.paint(mesh.vertices) - mesh.colours).abs().max() < 0.15  # red, and a blue tip
    assert torch.equal(coloured.mesh().vertices, mesh.vertices) and torch.equal(coloured.mesh().faces, mesh.faces)


def test_vertices_of_no_triangle_make_nothing_smaller(tmp_path):
    (tmp_path / "a.obj").write_text("v 900 0 0\n" + PYRAMID.replace("f 4 1 5", "f 5 2 6").replace("f 1 2 5", "f 2 3 6").replace(
        "f 2 3 5", "f 3 4 6").replace("f 3 4 5", "f 4 5 6"))
    ours, theirs = (meshfile.load_mesh(path, 0.8).vertices for path in (pyramid(), tmp_path / "a.obj"))
    assert len(ours) == 5 and torch.allclose(ours, theirs, atol=1e-6)


def test_a_textured_mesh_goes_on_and_takes_no_other_mesh(prior):
    """``texture`` keeps what an earlier part has made, colours and all; a state of another mesh is refused."""
    made = given(begin(prior), file=pyramid(), levels=2, finest=32, hidden=8)
    onward = texture(begin(prior, lambda name: made), of="first")
    shown = [scene.render(ring(2), 24, torch.ones(3)).rgb for scene in (made, onward)]
    assert torch.equal(*shown) and all(leaf.requires_grad for leaf in onward.parameters().values())
    tets = scenes.STARTS["sphere"](begin(prior), cells=10, levels=2, finest=32, hidden=8)
    frozen = texture(begin(prior, lambda name: tets), of="first")
    assert isinstance(frozen, Textured) and torch.allclose(
        *(scene.render(ring(2), 24, torch.ones(3)).rgb for scene in (tets, frozen)), atol=1e-6)
    ball = scenes.STARTS["ball"](begin(prior), points=9)
    with pytest.raises(ValueError, match="start.of must name a part that made a mesh, got 'first', which made a Gaussians"):
        texture(begin(prior, lambda name: ball), of="first")
    with pytest.raises(ValueError, match="vertices of another Textured: build the one"):
        made.load_state_dict(made.state_dict() | {"vertices": made.kept["vertices"] + 1})
    for faces in (made.kept["faces"] + 3, made.kept["faces"][:0], made.kept["faces"] * 1.0):
        with pytest.raises((ValueError, TypeError)):
            Textured(made.kept["vertices"], faces, made.grid, 8)


OBJ = "v 0 0 0\nv 1 0 0\nv 0 1 {}\n"


@pytest.mark.parametrize("name, content, says", [
    ("none.glb", None, "there is no file none.glb: name a .glb"), ("empty.glb", "", "empty.glb is empty, 0 bytes"),
    ("cut.glb", "glTF but not quite", "cut.glb cannot be read"), ("points.obj", OBJ.format(0), "points.obj "),
    ("nan.obj", OBJ.format("nan") + "f 1 2 3\n", "values that are not finite"), ("duck.fbx", "Kaydara", "of no format that is"),
    ("flat.obj", "v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n", "have an area of 0, nothing would be seen"),
    ("huge.obj", "v 0 0 0\nv 1e300 0 0\nv 0 1 0\nf 1 2 3\n", "not finite"),
    ("many.obj", PYRAMID, "has 4 triangles, at most 3 are read"), (".", None, ". is of no format"), ("", None, "start.file")])
def test_a_file_that_is_no_mesh_is_named_before_any_work(name, content, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(meshfile, "MOST", 3)
    monkeypatch.setattr(pipeline, "load_prior", lambda part: pytest.fail("a prior was loaded"))
    if content is not None:
        (tmp_path / name).write_text(content)
    assert main(["dream", "a red mug", "--mesh", name]) == 2
    line, = capsys.readouterr().err.splitlines()
    assert says in line and os.listdir() == ([name] if content is not None else [])


def test_a_mesh_is_short_for_a_method_and_a_file(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(runs, "dream", lambda *what: asked.append(what[0]))
    short = ["dream", "a red mug", "--mesh", pyramid(), "--rule", "VSD"]
    assert main(short) == 0 and main([*short[:2], "--method", "texture-mesh", "--set", f"start.file={pyramid()}",
                                      "--set", "rule=VSD"]) == 0
    assert asked[0].tag("texture") == asked[1].tag("texture") and asked[0].method.name == "texture-mesh"
    for more in (["--method", "ball"], ["--scene", "picture"]):
        assert main([*short, *more]) == 2
        said = capsys.readouterr().err
        assert " ".join(more) in said and f"--mesh {pyramid()}" in said and "leave one out" in said
    assert main(["dream", "a red mug", "--method", "texture-mesh"]) == 2
    assert "start.file names the mesh to begin with, got ''" in capsys.readouterr().err


def test_another_mesh_under_the_same_name_is_another_run(prior, tmp_path):
    file = tmp_path / "a.obj"
    shutil.copy(pyramid(), file)
    first = ask(str(file)).tag("texture")
    assert ask(str(file)).tag("texture") == first
    file.write_text(PYRAMID.replace("1.5", "1.6"))
    assert ask(str(file)).tag("texture") != first


def test_what_a_run_has_painted_is_exported(prior, tmp_path, monkeypatch):
    """A GLB has the mesh that was given, an STL is refused where it has a hole; the run can go into a page too."""
    monkeypatch.setattr(Solid, "write", lambda self, folder, last: (self.keep(folder), ""))
    folder = runs.dream(ask(), tmp_path, prior=prior)
    assert json.loads((folder / "settings.json").read_text())["settings"]["start"]["file"] == pyramid()
    files = runs.export(folder, ("glb", "page"))
    assert {path.name for path in files} == {"mesh.glb", "model.html"}
    back, mine = (meshfile.load_mesh(path, 0.8) for path in (folder / "mesh.glb", pyramid()))
    corners = [mesh.vertices[mesh.faces].reshape(-1, 9).sort(0).values for mesh in (back, mine)]
    assert len(back.faces) == 4 and torch.allclose(*corners, atol=1e-6)
    with pytest.raises(ValueError, match="a printer needs a mesh without holes"):
        runs.export(folder, ("stl",))
    save_glb(scenes.load(folder / "scene.safetensors").mesh(), tmp_path / "plain.glb")
