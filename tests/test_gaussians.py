"""The scenes that are leaves: Gaussians and pictures."""
import pytest
import torch

from dreamlab.cameras import ring
from dreamlab.memory import Live
from dreamlab.noise import seeded
from dreamlab.rules.base import Residual, distill
from dreamlab.scenes import load
from dreamlab.scenes.gaussians import Gaussians, nearest
from dreamlab.scenes.picture import Picture

GROUPS = ["means", "quats", "scales", "opacities", "colors"]


def scene(n=50):
    g = seeded(0)
    return Gaussians(torch.randn(n, 3, generator=g) / 3, torch.randn(n, 4, generator=g),
                     0.05 + 0.1 * torch.rand(n, 3, generator=g), 0.1 + 0.8 * torch.rand(n, generator=g),
                     0.1 + 0.8 * torch.rand(n, 3, generator=g))


def test_parameters_are_named_leaves_that_the_render_reaches():
    gaussians = scene()
    parameters = gaussians.parameters()
    assert list(parameters) == GROUPS and all(p.is_leaf and p.requires_grad for p in parameters.values())
    gaussians.render(ring(2), 24, torch.ones(2, 3)).rgb.square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in parameters.values())


def test_properties_invert_the_storage():
    g = torch.Generator().manual_seed(1)
    scales, opacities, colors = (0.1 + 0.8 * torch.rand(*s, generator=g) for s in ((9, 3), (9,), (9, 3)))
    gaussians = Gaussians(torch.zeros(9, 3), torch.ones(9, 4), scales, opacities, colors)
    for given, stored in ((scales, gaussians.scales), (opacities, gaussians.opacities), (colors, gaussians.colors)):
        assert torch.allclose(given, stored, atol=1e-6)
    extreme = Gaussians(torch.zeros(1, 3), torch.ones(1, 4), torch.zeros(1, 3), torch.ones(1), torch.zeros(1, 3))
    assert all(p.isfinite().all() for p in extreme.parameters().values())


def test_from_points_takes_the_width_from_three_neighbours():
    """On a square of side 1 every corner has neighbours at 1, 1 and sqrt 2: root mean square sqrt(4/3)."""
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]])
    gaussians = Gaussians.from_points(corners, torch.rand(4, 3), opacity=0.25)
    assert torch.allclose(gaussians.scales, torch.full((4, 3), (4 / 3) ** 0.5), atol=1e-5)
    assert torch.allclose(gaussians.opacities, torch.full((4,), 0.25))
    assert torch.equal(gaussians.means, corners)


def test_from_points_by_parts_equals_the_whole(generator):
    points = torch.rand(1300, 3, generator=generator)
    square = torch.cdist(points, points).square().sort(1).values[:, 1:4].mean(1)
    widths = Gaussians.from_points(points, points).scales
    assert torch.allclose(widths[:, 0], square.sqrt(), rtol=1e-3)


def test_coinciding_points_stay_finite():
    points = torch.zeros(6, 3)
    assert all(p.isfinite().all() for p in Gaussians.from_points(points, points).parameters().values())


def test_ball_is_grey_round_and_repeatable():
    one, two = (Gaussians.ball(4000, 0.6, generator=seeded(3)) for _ in range(2))
    distance = one.means.norm(dim=-1)
    assert torch.equal(one.means, two.means) and distance.max() <= 0.6
    assert abs((distance < 0.3).float().mean() - 1 / 8) < 0.02  # evenly through the volume
    assert torch.allclose(one.colors, torch.full((4000, 3), 0.5))


def test_save_and_load_keep_every_bit(tmp_path):
    before = scene()
    before.save(tmp_path / "scene.safetensors")
    after = Gaussians.load(tmp_path / "scene.safetensors")
    copy = scene(3)
    copy.load_state_dict(before.state_dict())
    for name in GROUPS:
        for other in (after, copy):
            p = other.parameters()[name]
            assert torch.equal(before.parameters()[name], p) and p.is_leaf and p.requires_grad
    assert [f.name for f in tmp_path.iterdir()] == ["scene.safetensors"]
    assert len(copy) == 50 and copy.means.data_ptr() != before.means.data_ptr()


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="at least 4 points .* got 3"):
        Gaussians.from_points(torch.zeros(3, 3), torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"opacity must be a number in \(0, 1\), got 1"):
        Gaussians.from_points(torch.zeros(4, 3), torch.zeros(4, 3), opacity=1.0)
    with pytest.raises(ValueError, match="spread must be a number above 0, got 0"):
        Gaussians.from_points(torch.zeros(4, 3), torch.zeros(4, 3), opacity=0.5, spread=0.0)
    state = scene().state_dict()
    state["quats"] = state["quats"][:, :3]
    with pytest.raises(ValueError, match=r"quats = a tensor \(50, 3\)"):
        Gaussians.from_raw(state)


def test_a_picture_of_pixels_is_its_own_render():
    picture = Picture.grey(8)
    render = picture.render(ring(3), 8, torch.ones(3))
    assert render.rgb.shape == (3, 8, 8, 3) and (render.rgb == 0.5).all() and (render.alpha == 1).all()
    residual = torch.randn(3, 3, 8, 8)
    distill(render.rgb.movedim(-1, 1), Residual(residual, torch.ones(3))).backward()
    assert torch.allclose(picture.parameters()["pixels"].grad, residual.movedim(1, -1).sum(0, keepdim=True))


def test_a_latent_picture_is_decoded_to_be_seen(tmp_path):
    decode = lambda x: x[:, :3].sigmoid().movedim(1, -1)  # noqa: E731
    picture = Picture(torch.zeros(2, 4, 8, 8), decode)
    assert picture.latent() is picture.parameters()["latents"] and picture.render().rgb.shape == (2, 8, 8, 3)
    picture.save(tmp_path / "picture.safetensors")
    with pytest.raises(ValueError, match="give the prior that decodes them"):
        load(tmp_path / "picture.safetensors")


def test_a_picture_refuses_what_it_cannot_show():
    with pytest.raises(ValueError, match="decode="):
        Picture(torch.zeros(1, 4, 8, 8))
    with pytest.raises(ValueError, match="stored as pixels"):
        Picture.grey(8).latent()
    with pytest.raises(ValueError, match="8 pixels, got resolution 64"):
        Picture.grey(8).render(ring(1), 64, torch.ones(3))
    with pytest.raises(ValueError, match="2 pictures .* 3 cameras"):
        Picture.grey(8, n=2).render(ring(3))


def test_neighbours_among_many_are_those_of_a_search_through_all(generator):
    points = torch.cat([torch.rand(3000, 3, generator=generator), torch.rand(40, 3, generator=generator) * 30])
    whole, pieces = nearest(points), nearest(points, many=100)
    assert whole.shape == (3040, 3) and torch.allclose(whole, pieces, atol=1e-3)
    away = (points[:, None] - points).norm(dim=-1).topk(4, largest=False).values[:, 1:]
    assert torch.allclose(whole, away, atol=1e-3)


def test_a_hundred_thousand_of_them_take_little_memory(generator):
    with Live() as live:
        Gaussians.from_points(torch.rand(100_000, 3, generator=generator), torch.rand(100_000, 3, generator=generator))
    assert live.most < 2e8
