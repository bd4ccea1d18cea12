"""NeuS's opacity in closed form, and scenes whose surface is the zero of a volume that learns."""
import math

import pytest
import torch
from nerfacc import render_weight_from_alpha
from zoo import tiny

from dreamlab import scenes
from dreamlab.cameras import orbit, ring
from dreamlab.costvolume import Geometry
from dreamlab.mesh import watertight
from dreamlab.noise import seeded
from dreamlab.render.volume import alpha_weights, neus_alpha
from dreamlab.scenes.base import Begin
from dreamlab.scenes.nerf import HashGrid
from dreamlab.scenes.neus import NeuS, neus_to_tets


def ball(seed: int = 0, **more) -> NeuS:
    """The scene that a network begins as: a ball of radius 0.5, of grey."""
    torch.manual_seed(seed)
    return NeuS(torch.zeros(4, 8, 8, 8), Geometry(4, 3, 16), 80.0, grid=HashGrid(2, entries=2**10), hidden=8,
                generator=seeded(seed), **more)


@pytest.mark.parametrize("sharpness", [20.0, 100.0])
@pytest.mark.parametrize("cos", [1.0, 0.4])
def test_opacity_at_a_plane_in_closed_form(cos, sharpness):
    """f = cos (1 - t): the weights sum up to (Phi(f_0) - Phi(f_n)) / Phi(f_0) for any sections, and go as s Phi (1 - Phi) cos:
    their peak is at the surface, and their mean too, however coarse the sections and at any angle."""
    t = torch.linspace(0, 2, 4001, dtype=torch.float64)
    f = cos * (1 - t)
    w, phi = alpha_weights(neus_alpha(f, sharpness)), torch.sigmoid(sharpness * f)
    assert torch.allclose(w.cumsum(0), (phi[0] - phi[1:]) / phi[0], atol=1e-9)
    middle = (t[1:] + t[:-1]) / 2
    density = sharpness * cos * (sharpness * cos * (1 - middle)).sigmoid() * (-sharpness * cos * (1 - middle)).sigmoid()
    assert torch.allclose(w / t.diff(), density / phi[0], atol=2e-4 * density.max().item())
    assert abs(middle[w.argmax()] - 1) < 1e-3 and abs((w * middle).sum() / w.sum() - 1) < 2e-3
    coarse = t[::100]
    w = alpha_weights(neus_alpha(cos * (1 - coarse), sharpness))
    assert abs((w * (coarse[1:] + coarse[:-1]) / 2).sum() / w.sum() - 1) < 0.02


def test_a_density_that_follows_the_distance_is_biased_and_neus_is_not():
    """The naive alternative, density s Phi (1 - Phi), has its peak before the surface: the reason for NeuS's opacity."""
    t = torch.linspace(0, 2, 4001, dtype=torch.float64)
    f, s = 0.5 * (1 - t), 20.0
    middle = (t[1:] + t[:-1]) / 2
    density = 8 * s * (s * f[1:]).sigmoid() * (-s * f[1:]).sigmoid()
    naive = alpha_weights(-torch.expm1(-density * t.diff()))
    assert middle[naive.argmax()] < 0.95 and abs(middle[alpha_weights(neus_alpha(f, s)).argmax()] - 1) < 1e-3


def test_weights_are_nerfacc_s():
    """What alphas composite to, beside nerfacc's on the same alphas; where a ray leaves again nothing is added."""
    g = seeded(0)
    f = torch.randn(5, 33, generator=g).cumsum(1) * 0.05 + 0.3
    alpha = neus_alpha(f, 60.0)
    theirs, _ = render_weight_from_alpha(alpha)
    assert torch.allclose(alpha_weights(alpha), theirs, atol=1e-6)
    assert (alpha[f.diff(dim=1) >= 0] == 0).all() and alpha.min() >= 0 and alpha.max() <= 1


def test_opacity_has_its_gradient():
    f = (0.1 * torch.randn(3, 6, generator=seeded(1), dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: neus_alpha(x, 9.0), f)


def test_a_ball_is_drawn_as_a_ball():
    """Coverage and depth of the sphere of radius 0.5 in closed form, but for its outline; what is left out is little."""
    scene, cameras = ball(), orbit([0.0, 130.0], [10.0, -20.0])
    render = scene.render(cameras, 32, torch.ones(3))
    eyes, directions = cameras.rays(32)
    b = (eyes[:, None, None] * directions).sum(-1)
    far2 = (eyes.square().sum(-1)[:, None, None] - b**2)  # of the ray from the middle
    inside, outside = far2 < 0.42**2, far2 > 0.6**2
    assert (render.alpha[..., 0][inside] > 0.99).all() and (render.alpha[..., 0][outside] < 0.02).all()
    t = -b - (0.25 - far2).clamp(min=0).sqrt()
    z = t * (directions * cameras.viewmats[:, None, None, 2, :3]).sum(-1)
    assert (render.depth[..., 0] - z)[inside].abs().max() < 0.02
    whole = ball()
    whole.lit = lambda places: torch.ones(places.shape[0], places.shape[1] - 1, dtype=torch.bool)
    assert torch.allclose(whole.render(cameras, 32, torch.ones(3)).rgb, render.rgb, atol=3e-3)


def test_the_volume_moves_the_surface_and_the_network_stays():
    """A step down the gradient of coverage shrinks it; f_g is in no list of leaves, and is in the file."""
    scene = ball()
    torch.nn.init.normal_(scene.geometry.layers[2].weight, std=0.1)
    scene.kept = {f"geometry.{name}": x.clone() for name, x in scene.geometry.state_dict().items()}
    cameras = ring(2)
    render = scene.render(cameras, 24, torch.ones(3))
    before = {name: x.clone() for name, x in scene.geometry.state_dict().items()}
    gradient, = torch.autograd.grad(render.alpha.sum(), scene.volume)
    assert gradient.norm() > 0
    with torch.no_grad():
        scene.volume -= 0.2 * gradient / gradient.norm()
    assert scene.render(cameras, 24, torch.ones(3)).alpha.sum() < render.alpha.sum() - 1
    assert all(torch.equal(x, scene.geometry.state_dict()[name]) for name, x in before.items())
    assert set(scene.parameters()) == {"volume"} | {name for name in scene.parameters() if name.startswith(("grid", "color"))}


def test_a_scene_comes_back_from_its_file(tmp_path):
    scene, cameras = ball(1), ring(3)
    scene.save(tmp_path / "neus.safetensors")
    again = scenes.load(tmp_path / "neus.safetensors")
    assert isinstance(again, NeuS) and torch.equal(
        *(s.render(cameras, 24, torch.ones(3), seeded(3)).rgb for s in (scene, again)))
    with pytest.raises(ValueError, match="geometry.layers.0.weight of another NeuS: build the one"):
        ball(2).load_state_dict(scene.state_dict())
    with pytest.raises(ValueError, match="reads 4 channels of a volume, got 5: take both from one"):
        NeuS(torch.zeros(5, 8, 8, 8), Geometry(4, 3, 16))


def test_its_surface_and_its_mesh():
    """The zero of the distances, closed, at radius 0.5; DMTet takes over shape and colours."""
    scene = ball()
    mesh = scene.mesh()
    assert watertight(mesh) and (mesh.vertices.norm(dim=1) - 0.5).abs().max() < 0.01
    begin = Begin("a ball", tiny("epsilon"), seeded(0), lambda name: scene)
    tets = neus_to_tets(begin, of="neus", cells=24)
    vertices = tets.mesh().vertices
    assert (vertices.norm(dim=1) - 0.5).abs().max() < 0.02
    assert torch.allclose(tets.paint(vertices), scene.paint(vertices), atol=1e-6)
    views = [s.render(ring(4), 48, torch.ones(3)) for s in (scene, tets)]
    assert ((views[0].alpha > 0.5) != (views[1].alpha > 0.5)).float().mean() < 0.01
    nothing = ball()
    nothing.geometry.layers[2].bias.data[0] = 5.0
    with pytest.raises(ValueError, match="the shape to begin with is empty"):
        neus_to_tets(Begin("a ball", tiny("epsilon"), seeded(0), lambda name: nothing), of="neus", cells=24)
    with pytest.raises(ValueError, match="start.of names a part that made a NeuS, got 'x', which made a Tets"):
        neus_to_tets(Begin("a ball", tiny("epsilon"), seeded(0), lambda name: tets), of="x", cells=24)


def test_jitter_is_the_generator_s_alone():
    scene, cameras = ball(), ring(2)
    a, b, c = (scene.render(cameras, 16, torch.ones(3), g).rgb for g in (seeded(1), seeded(1), seeded(2)))
    assert torch.equal(a, b) and not torch.equal(a, c) and math.isclose(a.mean().item(), c.mean().item(), abs_tol=2e-3)


def test_a_background_of_its_own_lies_behind_and_is_kept(tmp_path):
    """It is seen where the ball is not, has gradients there, and comes back from a file; without one it is an error."""
    scene, cameras = ball(sky=True), ring(2)
    render = scene.render(cameras, 16, None)
    empty = render.alpha[..., 0] == 0
    assert empty.any() and (render.rgb[empty] > 0.05).all() and (render.rgb[empty] < 0.95).all()
    render.rgb[empty].sum().backward()
    assert all(p.grad.abs().sum() > 0 for name, p in scene.parameters().items() if name.startswith("background."))
    scene.save(tmp_path / "scene.safetensors")
    assert torch.equal(scenes.load(tmp_path / "scene.safetensors").render(cameras, 16, None).rgb, render.rgb)
    with pytest.raises(ValueError, match="the scene's own, and it has none: make it with sky=True, or give a colour"):
        ball().render(cameras, 16, None)
