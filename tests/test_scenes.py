"""Laws that hold for every scene, and the file that any of them is rebuilt from."""
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from voxels import Voxels, voxels
from zoo import pyramid

from dreamlab import export, memory, pipeline, scenes
from dreamlab.cameras import ring
from dreamlab.mesh import lattice
from dreamlab.methods import METHODS
from dreamlab.noise import stream
from dreamlab.priors.diffusion import DiffusionPrior
from dreamlab.scenes import SCENES, STARTS, Begin
from dreamlab.scenes.base import Scene
from dreamlab.scenes.convert import seen
from dreamlab.scenes.nerf import HashGrid
from dreamlab.scenes.tets import Tets
from dreamlab.stage import make_optimiser, restore, run, snapshot
from dreamlab.toybox.objects import Toy
from dreamlab.toybox.render import render as render_truth
from dreamlab.viewpoints import Circle

SMALL = {"points": {"prior": "toybox", "points": 60}, "ball": {"points": 60}, "surface": {"points": 60, "of": "first"},
         "blob": {"levels": 2, "finest": 32, "hidden": 8, "samples": 8, "radius": 0.85}, "latents": {"pictures": 2},
         "latent_blob": {"levels": 2, "finest": 32, "hidden": 8, "samples": 8, "radius": 0.85},
         "pixels": {"pictures": 2}, "again": {"of": "first"}, "voxels": {"side": 8},
         "sphere": {"cells": 12, "levels": 2, "finest": 32, "hidden": 8},
         "given": {"file": pyramid(), "levels": 2, "finest": 32, "hidden": 8},
         "nerf_to_tets": {"of": "field", "cells": 10}, "neus_to_tets": {"of": "volume", "cells": 10},
         "cost_volume": {"viewpoints": Circle(4), "samples": 24, "levels": 2, "finest": 32, "hidden": 8},
         "random_volume": {"samples": 24, "levels": 2, "finest": 32, "hidden": 8}, "texture": {"of": "mesh"},
         "shape": {"prior": "toybox", "cells": 10, "levels": 2, "finest": 32, "hidden": 8}}


@pytest.fixture(scope="module", autouse=True)
def with_voxels():
    """The scene of the tests stands in the lists while they run, as a contributor's does."""
    SCENES["Voxels"], STARTS["voxels"] = Voxels, voxels
    yield
    del SCENES["Voxels"], STARTS["voxels"]


@pytest.fixture(scope="module")
def prior():
    return DiffusionPrior.load()


def make(name, prior, seed=0):
    """A small scene that begins so; earlier parts made a ball, a field and a mesh."""
    def earlier(name):
        start, generator = {"first": "ball", "field": "blob", "mesh": None, "volume": "cost_volume"}[name], stream(seed, name)
        if name == "mesh":
            places, box = lattice(11, 0.8), torch.tensor([[-0.8] * 3, [0.8] * 3])
            return Tets(places.norm(dim=-1) - 0.5, box, HashGrid(2, entries=2**10, generator=generator), 8, generator=generator)
        return STARTS[start](Begin("a red mug", prior, generator, pipeline.alone), **SMALL[start])

    return STARTS[name](Begin("a red mug", prior, stream(seed, "start"), earlier), **SMALL[name])


def shown(scene, background=1.0):
    size = scene.render(ring(scene.together), None, torch.ones(3)).rgb.shape[1] if scene.dimensions == 2 else 24
    return scene.render(ring(max(2, scene.together)), size, torch.full((3,), background))


starts = pytest.mark.parametrize("name", [*STARTS, "voxels"])


def test_every_start_is_tested():
    assert {*STARTS, "voxels"} == SMALL.keys()


@starts
def test_renders_are_finite_and_within_range(name, prior):
    scene = make(name, prior)
    assert isinstance(scene, Scene) and type(scene) in SCENES.values()
    render = shown(scene)
    assert render.rgb.isfinite().all() and render.alpha.min() >= 0 and render.alpha.max() <= 1 + 1e-5
    assert render.rgb.shape[:3] == render.alpha.shape[:3] and render.rgb.shape[-1] == 3
    if scene.dimensions == 3:
        empty = render.alpha[..., 0] < 1e-6
        assert (render.rgb[empty] == 1).all() and render.depth[render.alpha > 0.5].min() > 0
        over = shown(scene, 0.0).rgb + (1 - render.alpha)  # linear in the background
        assert torch.allclose(over, render.rgb, atol=1e-5)


@starts
def test_gradients_reach_every_leaf(name, prior):
    scene = make(name, prior)
    leaves = scene.parameters()
    if name == "texture":  # keeps the surface as it is
        leaves = {k: leaf for k, leaf in leaves.items() if k not in ("start", "sdf", "offsets") or leaf.requires_grad}
        assert {k.split(".")[0] for k in leaves} == {"grid", "color"} == scene.rates.keys()
    assert all(leaf.is_leaf and leaf.requires_grad for leaf in leaves.values())
    looked = scene.latent() if "latents" in leaves else shown(scene).rgb
    grads = torch.autograd.grad((looked * torch.rand(looked.shape)).sum(), list(leaves.values()))
    assert all(g.isfinite().all() and g.abs().sum() > 0 for g in grads)


@starts
def test_the_file_rebuilds_the_scene_bit_for_bit(name, prior, tmp_path):
    scene = make(name, prior)
    scene.save(tmp_path / "a", tag="x")
    again = scenes.load(tmp_path / "a", prior)
    again.save(tmp_path / "b", tag="x")
    assert type(again) is type(scene) and scenes.notes(tmp_path / "a")["tag"] == "x"
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert torch.equal(shown(again).rgb, shown(scene).rgb)
    assert oct((tmp_path / "a").stat().st_mode) == oct((tmp_path / "c").stat().st_mode) if (tmp_path / "c").touch() else True


@starts
def test_its_state_goes_into_a_twin_and_a_wrong_one_changes_nothing(name, prior):
    scene, twin = make(name, prior), make(name, prior, seed=1)
    if name != "again":  # two balls of the same names
        assert any(not torch.equal(a, b) for a, b in zip(scene.parameters().values(), twin.parameters().values(), strict=True))
    twin.load_state_dict({k: v.clone() for k, v in scene.state_dict().items()})
    before = scene.state_dict()
    assert all(torch.equal(v, before[k]) for k, v in twin.state_dict().items())
    with pytest.raises(ValueError):
        twin.load_state_dict({"nonsense": torch.zeros(3)})
    assert all(torch.equal(v, before[k]) for k, v in twin.state_dict().items())
    assert scene.to("cpu") is scene


@starts
def test_it_is_distilled_measured_for_memory_and_gone_on_with(name, prior, tmp_path):
    """In a stage: the estimate leaves it as it was, a step moves it, a stopped run goes on bit for bit."""
    def stage():
        method = METHODS["text2image" if name == "latents" else "text2image-pixels" if name == "pixels" else "ball"]
        part, = method.toy.values()
        part = part.set({"rule": "SDS", "steps": 3} | ({} if name in ("latents", "pixels") else {"resolution": 24, "views": 2}))
        begun = make(name, prior)
        return part.set(rates=begun.rates if name not in ("latents", "pixels") else part.rates,
                        start=type(part.start)(STARTS[name], **SMALL[name])).build("a red mug", prior, begun=begun)

    plan = stage()
    before = snapshot(plan, make_optimiser(plan))
    assert memory.estimate(plan) > 10**8
    after = snapshot(plan, make_optimiser(plan))
    assert before.keys() == after.keys() and all(torch.equal(after[k], v) for k, v in before.items())
    steps = list(run(plan, progress=False))
    assert all(step.grad_norm > 0 for step in steps)
    assert any(not torch.equal(v, before[f"scene.{k}"]) for k, v in plan.scene.state_dict().items())

    first, again = stage(), stage()
    for step in run(first, tmp_path / "c", every=1, progress=False):
        if step.step == 1:
            break
    assert [s.step for s in run(again, tmp_path / "c", progress=False)] == [2]
    ours, theirs = (snapshot(x, make_optimiser(x)) for x in (again, plan))
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    restore(again, before | {k: v for k, v in ours.items() if k.startswith("adam")})


@pytest.mark.parametrize("name", [name for name in SMALL if name not in ("latents", "pixels")])
def test_the_viewer_draws_it(name, prior, tmp_path):
    small = dict(views=2, elevations_deg=(0.0,), resolution=16, progress=False)
    export.save_viewer(make(name, prior), tmp_path / "v.html", "x", **small)
    assert (tmp_path / "v.html").stat().st_size > 1000


def test_a_surface_is_where_the_object_is():
    """Points unprojected from the truth's depth lie on its surface, in its colours."""
    toy = Toy("duck")
    points, colours = seen(lambda cameras, resolution, background: render_truth(toy, "yellow", cameras, resolution, background))
    assert len(points) > 2000 and toy.sdf(points).abs().median() < 0.01
    assert colours.min() >= 0 and colours.max() <= 1 and (colours[:, 0] > colours[:, 2]).float().mean() > 0.7  # yellow


def test_a_file_that_is_no_scene_is_named(tmp_path, prior):
    save_file({"x": torch.zeros(2)}, tmp_path / "plain")
    (tmp_path / "text").write_text("hello")
    for name in ("plain", "text", "absent"):
        with pytest.raises(OSError, match=f"{name} holds no scene.*remove it"):
            scenes.load(tmp_path / name)
    make("ball", prior).save(tmp_path / "ball")
    with safe_open(tmp_path / "ball", "pt") as file:
        leaves = {k: file.get_tensor(k) for k in file.keys()}
    save_file(leaves, tmp_path / "other", {"dreamlab": json.dumps({"scene": "Mesh", "config": {}})})
    with pytest.raises(ValueError, match="holds a 'Mesh', and there is only: Gaussians"):
        scenes.load(tmp_path / "other")
    save_file({"means": torch.zeros(3, 3)}, tmp_path / "half", {"dreamlab": json.dumps({"scene": "Gaussians", "config": {}})})
    with pytest.raises(ValueError, match="Gaussians are made of"):
        scenes.load(tmp_path / "half")
