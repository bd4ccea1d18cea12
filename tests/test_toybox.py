"""The toybox: distances, camera and depth, linearity, captions, and what the training never sees."""
import numpy as np
import pytest
import torch

from dreamlab.cameras import Orbit, orbit, ring
from dreamlab.toybox import captions
from dreamlab.toybox.dataset import COLOUR_NAMES, KIND_NAMES, TRAIN_COLOURS, Views, biased_cameras
from dreamlab.toybox.objects import COLOURS, HELD_OUT, KINDS, MIRROR_SYMMETRIC, Toy, ball, box, fronts, lathe
from dreamlab.toybox.render import mesh, render, surface, trace


def test_primitive_distances_are_exact():
    p = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(ball(p, (0, 0, 0), 0.5), p.norm(dim=-1) - 0.5, atol=1e-6)
    outside = (p.abs() - 0.3).clamp_min(0).norm(dim=-1)
    d = box(p, (0, 0, 0), (0.3, 0.3, 0.3), 0.0)
    assert torch.allclose(d[outside > 0], outside[outside > 0], atol=1e-6) and (d[outside == 0] <= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_sphere_tracing_finds_what_a_dense_march_finds(kind):
    """Coverage equals that of 600 samples along every ray, up to rays that graze; a jump through a part would show."""
    cameras = orbit([20.0, 200.0])
    alpha = trace(Toy(kind), cameras, 32, supersample=1).alpha[..., 0]
    origin, direction = cameras.rays(32)
    near = torch.full(alpha.shape, 9.0)
    for depth in torch.linspace(1.4, 3.4, 600):
        near = near.minimum(Toy(kind).sdf((origin[:, None, None] + depth * direction).reshape(-1, 3)).view_as(near))
    sure = near.abs() > 4e-3
    assert sure.float().mean() > 0.97 and torch.equal(alpha[sure] == 1, near[sure] < 0)


@pytest.mark.parametrize("kind", KINDS)
def test_world_has_a_front_and_fits(kind):
    toy = Toy(kind)
    points = toy.surface_points(1000, torch.Generator().manual_seed(0))
    assert points.norm(dim=-1).max() < 0.9 and toy.sdf(points).abs().max() < 2e-3
    front, back = render(toy, "red", orbit([0.0, 180.0])).rgb
    assert (front - back.flip(1)).abs().mean() > 0.005
    seen = trace(toy, orbit([0.0], 20.0), 64).alpha[0]
    same = (seen - seen.flip(1)).abs().mean() < 1e-3
    assert same == (kind in MIRROR_SYMMETRIC)


def test_at_most_a_sliver_is_cut_off_in_the_views_that_are_measured():
    for kind in KINDS:
        alpha = trace(Toy(kind), ring(12), 64).alpha
        border = torch.cat([alpha[:, 0].flatten(), alpha[:, -1].flatten(), alpha[:, :, 0].flatten(), alpha[:, :, -1].flatten()])
        assert border.mean() < 0.08, kind  # a sliver of a hat, of a handle


def test_eyes_are_at_least_four_pixels_wide():
    """Dark pixels of the face at 64 px: the bear's left eye spans at least four columns."""
    rgb = render(Toy("bear"), "yellow", orbit([0.0], 0.0)).rgb[0]
    columns = (rgb[10:26, 34:48].sum(-1) < 0.5).any(0).sum()
    assert columns >= 4


def test_pictures_are_linear_in_colour_and_background():
    layers = trace(Toy("duck"), ring(2), 32)
    red, blue, white, black = torch.eye(3)[0], torch.eye(3)[2], torch.ones(3), torch.zeros(3)
    middle = layers.rgb((red + blue) / 2, (white + black) / 2)
    assert torch.allclose(middle, (layers.rgb(red, white) + layers.rgb(blue, black)) / 2, atol=1e-6)
    assert layers.rgb(white, white).max() <= 1 + 1e-6


def test_depth_agrees_with_the_distance_field():
    """Unprojecting the depth of solid pixels lands on the surface."""
    cameras = orbit([30.0], 10.0)
    out = trace(Toy("house"), cameras, 64, supersample=1)
    origin, direction = cameras.rays(64)
    forward = cameras.viewmats[:, 2, :3]
    along = out.depth / (direction * forward[:, None, None]).sum(-1, keepdim=True)
    p = (origin[:, None, None] + along * direction)[out.alpha[..., 0] == 1]
    assert len(p) > 500 and Toy("house").sdf(p).abs().max() < 3e-3
    towards = (out.normal * direction).sum(-1)[out.alpha[..., 0] == 1]
    assert (towards < 0.05).float().mean() > 0.98


def test_camera_conventions():
    cameras = orbit([0.0, 90.0], [0.0, 30.0])
    assert torch.allclose(cameras.positions[0], torch.tensor([2.4, 0, 0]), atol=1e-6)
    for pose, position in zip(cameras.viewmats, cameras.positions, strict=True):
        assert torch.allclose(pose @ torch.cat([position, torch.ones(1)]), torch.tensor([0, 0, 0, 1.0]), atol=1e-5)
        assert torch.allclose(pose @ torch.tensor([0, 0, 0, 1.0]), torch.tensor([0, 0, 2.4, 1.0]), atol=1e-5)
        assert torch.linalg.det(pose[:3, :3]).item() == pytest.approx(1, abs=1e-5)
        assert pose[1, 2] < 0  # world up is image up
    # From the front, the object's left (+y) is on the right of the image.
    assert (cameras.viewmats[0] @ torch.tensor([0, 1.0, 0, 1]))[0] > 0
    # A ray through a pixel centre projects back to it.
    origin, d = cameras.rays(8)
    p = cameras.viewmats[:, :3, :3] @ (d[:, 2, 5] * 3)[..., None]
    uv = (cameras.Ks(8) @ p)[..., 0]
    assert torch.allclose(uv[:, :2] / uv[:, 2:], torch.tensor([[5.5, 2.5]] * 2), atol=1e-4)
    # The clip matrix agrees with the pixel projection.
    q = torch.tensor([0.3, -0.2, 0.4, 1.0])
    clip = cameras.clip_matrix() @ q
    pixel = (cameras.Ks(8) @ (cameras.viewmats @ q)[:, :3, None])[..., 0]
    ndc = clip[:, :2] / clip[:, 3:]
    assert torch.allclose((ndc * torch.tensor([1, -1]) + 1) * 4, pixel[:, :2] / pixel[:, 2:], atol=1e-4)
    with pytest.raises(ValueError, match="fov_deg"):
        orbit([0.0], fov_deg=180.0)


def test_stratified_orbit_covers_the_circle():
    az = Orbit().sample(8, torch.Generator().manual_seed(3)).azimuth_deg.sort().values
    assert (az.diff().max() < 90) and len(az) == 8
    again = Orbit().sample(8, torch.Generator().manual_seed(3)).azimuth_deg.sort().values
    assert torch.equal(az, again)


@pytest.mark.parametrize("n", [2, 3])
def test_janus_warp_has_n_equal_fronts(n):
    rgb = render(Toy("duck", fronts(n)), "red", orbit([0.0, 360 / n, 180 / n])).rgb
    assert (rgb[0] - rgb[1]).abs().mean() < 5e-3 < (rgb[0] - rgb[2]).abs().mean()


def test_lathe_looks_the_same_from_everywhere():
    rgb = render(Toy("bear", lathe), "blue", ring(5)).rgb
    assert (rgb - rgb[:1]).abs().mean() < 2e-3


def test_captions_and_prompts():
    assert captions.caption("owl", "orange", "back view") == "an orange owl, back view"
    assert captions.view_phrases(90) == ["side view", "left side view"]
    assert captions.view_phrases(-90) == ["side view", "right side view"]
    assert captions.view_phrases(200) == ["back view"] and captions.view_phrases(359) == ["front view"]
    assert captions.parse("a photo of a Yellow duck") == ("duck", "yellow")
    for bad in ("a yellow zebra", "a duck", "a red and blue duck"):
        with pytest.raises(ValueError, match="mug, duck, snowman"):
            captions.parse(bad)


def test_tokenizer_knows_every_word_whole(tmp_path):
    tokenizer = captions.save_tokenizer(tmp_path)
    for word in captions.vocabulary():
        assert len(tokenizer(word).input_ids) == 3, word
    longest = captions.caption("snowman", "orange", "right side view", captions.TEMPLATES[1])
    assert len(tokenizer(longest).input_ids) <= captions.TOKENS


def test_held_out_pairs_never_appear_in_training(tmp_path):
    assert len(HELD_OUT) == 8 and {k for k, _ in HELD_OUT} == set(KINDS) and {c for _, c in HELD_OUT} == set(COLOURS)
    views = Views.make(2, resolution=8, cache=tmp_path / "views.safetensors")
    g = torch.Generator().manual_seed(0)
    pictures, texts, index, colour = views.batch(4000, g)
    pairs = {(KIND_NAMES[views.kind[i]], COLOUR_NAMES[c]) for i, c in zip(index.tolist(), colour.tolist(), strict=True)}
    assert not pairs & HELD_OUT and len(pairs) == 56 == TRAIN_COLOURS.numel()
    assert pictures.shape == (4000, 3, 8, 8) and pictures.abs().max() <= 1
    for text, i, c in zip(texts, index.tolist(), colour.tolist(), strict=True):
        assert KIND_NAMES[views.kind[i]] in text and COLOUR_NAMES[c] in text
    again = Views.make(2, resolution=8, cache=tmp_path / "views.safetensors")
    assert torch.equal(again.layers, views.layers)
    assert torch.equal(Views.make(2, resolution=8).layers, views.layers)  # same seed, same world


def test_view_bias_is_a_setting():
    away = biased_cameras(4000, (0.8, 0.15, 0.05), torch.Generator().manual_seed(0)).azimuth_deg.abs()
    shares = np.array([(away < 45).float().mean(), ((away >= 45) & (away < 135)).float().mean(), (away >= 135).float().mean()])
    assert np.allclose(shares, (0.8, 0.15, 0.05), atol=0.03)
    with pytest.raises(ValueError, match="three shares"):
        biased_cameras(4, (0.5, 0.5, 0.5), torch.Generator())


def test_surface_and_mesh_lie_on_the_object():
    p, rgb = surface(Toy("car"), "green", 500, torch.Generator().manual_seed(0))
    assert p.shape == rgb.shape == (500, 3) and 0 <= rgb.min() and rgb.max() <= 1
    solid = mesh(Toy("car"), "green", 48)
    assert Toy("car").sdf(solid.vertices).abs().max() < 0.02
    f = solid.faces
    edges = torch.cat([f[:, [0, 1]], f[:, [1, 2]], f[:, [2, 0]]]).sort(1).values
    _, counts = edges.unique(dim=0, return_counts=True)
    assert (counts == 2).float().mean() > 0.999
