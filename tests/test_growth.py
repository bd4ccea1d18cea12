"""Growth: gsplat's own operations, closed forms of what is observed, both sides of every threshold, and nothing lost."""
import pytest
import torch
from safetensors.torch import load_file, save_file

from dreamlab.cameras import orbit, ring
from dreamlab.noise import seeded
from dreamlab.render.splat import quats_to_matrices
from dreamlab.scenes.gaussians import Gaussians
from dreamlab.scenes.growth import Growth
from dreamlab.scenes.picture import Picture

ALWAYS = {"since": 0, "every": 1, "until": 10**6, "reset": None, "wide_since": 10**6}
BLACK = torch.zeros(3)


def made(n=40, seed=0, scales=(0.02, 0.2), opacities=(0.1, 0.9)):
    """n random Gaussians with scales and opacities in the given ranges."""
    g, between = seeded(seed), lambda ends, x: ends[0] + (ends[1] - ends[0]) * x
    parts = {"means": torch.randn(n, 3, generator=g) / 3, "quats": torch.randn(n, 4, generator=g),
             "scales": between(scales, torch.rand(n, 3, generator=g)).log(),
             "opacities": between(opacities, torch.rand(n, generator=g)).logit(), "colors": torch.randn(n, 3, generator=g)}
    return Gaussians.from_raw(parts)


def adam(scene, rate=1e-2, steps=0):
    """The optimiser of a Stage, one group a leaf, after some steps along random gradients."""
    groups = [{"params": [p], "lr": rate, "name": name} for name, p in scene.parameters().items()]
    optimiser, g = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15), seeded(5)
    for _ in range(steps):
        for p in scene.parameters().values():
            p.grad = torch.randn(p.shape, generator=g).to(p)
        optimiser.step()
    return optimiser


def seen(pull, radius=None):
    """What one view of each Gaussian would have left behind."""
    return {"pull": pull, "views": torch.ones_like(pull), "radius": torch.zeros_like(pull) if radius is None else radius}


def grown(scene, optimiser, pull, step=0, seed=7, radius=None, **settings):
    growth = Growth(**ALWAYS | settings)
    growth.load_state_dict(seen(pull, radius))
    growth(step, scene, optimiser, torch.Generator().manual_seed(seed))
    return growth


def everything(scene, optimiser):
    """All numbers of scene and optimiser, by name, and that the two share their leaves."""
    for group in optimiser.param_groups:
        leaf, = group["params"]
        assert leaf is scene.raw[group["name"]] and leaf.is_leaf and leaf.requires_grad
    assert len(optimiser.state) in (0, len(scene.raw))
    return scene.state_dict() | {f"{name}.{k}": torch.as_tensor(v) for name, leaf in scene.raw.items()
                                 for k, v in optimiser.state.get(leaf, {}).items()}


def snapshot(scene, optimiser):
    return {k: v.clone() for k, v in everything(scene, optimiser).items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_clones_splits_and_removals_are_those_of_gsplat():
    ops = pytest.importorskip("gsplat.strategy.ops")
    scene = made(60)
    with torch.no_grad():
        scene.raw["opacities"][::7] = -6.0  # 0.0025
    optimiser, pull = adam(scene, steps=3), torch.rand(60, generator=seeded(1))
    params = {name: torch.nn.Parameter(leaf.detach().clone()) for name, leaf in scene.raw.items()}
    theirs = {name: torch.optim.Adam([p]) for name, p in params.items()}
    for name, p in params.items():
        theirs[name].state[p] = {k: v.clone() for k, v in optimiser.state[scene.raw[name]].items()}

    high, large = pull >= 0.5, scene.scales.amax(-1) > 0.15
    assert min((high & large).sum(), (high & ~large).sum(), (~high).sum()) > 5
    torch.manual_seed(7)
    ops.duplicate(params, theirs, {}, high & ~large)
    ops.split(params, theirs, {}, torch.cat([high & large, torch.zeros((high & ~large).sum(), dtype=torch.bool)]))
    ops.remove(params, theirs, {}, (params["opacities"].sigmoid() < 0.005) | (params["scales"].exp().amax(-1) > 0.17))

    grown(scene, optimiser, pull, gradient=0.5, split=0.15, wide=0.17, wide_since=0)
    ours, theirs = everything(scene, optimiser), params | {
        f"{name}.{k}": v for name, p in params.items() for k, v in theirs[name].state[p].items()}
    assert ours.keys() == theirs.keys() and len(scene) != 60
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name].detach(), atol=1e-6, rtol=1e-5, msg=name)


def test_reset_is_that_of_gsplat_and_only_lowers():
    ops = pytest.importorskip("gsplat.strategy.ops")
    scene = made(50, opacities=(0.006, 0.1))
    optimiser, before = adam(scene, steps=2), scene.opacities.detach().clone()
    before_all = snapshot(scene, optimiser)
    params = {"opacities": torch.nn.Parameter(scene.raw["opacities"].detach().clone())}
    theirs = {"opacities": torch.optim.Adam(params.values())}
    theirs["opacities"].state[params["opacities"]] = dict(optimiser.state[scene.raw["opacities"]])
    ops.reset_opa(params, theirs, {}, 0.02)
    Growth(reset=5, reset_to=0.02)(4, scene, optimiser, seeded(0))

    torch.testing.assert_close(scene.raw["opacities"], params["opacities"])
    assert (scene.opacities <= before + 1e-7).all() and (before < 0.02).any() and (before > 0.02).any()
    torch.testing.assert_close(scene.opacities, before.clamp(max=0.02))
    changed = {name for name, value in everything(scene, optimiser).items() if not torch.equal(value, before_all[name])}
    assert changed == {"opacities", "opacities.exp_avg", "opacities.exp_avg_sq"}
    assert not optimiser.state[scene.raw["opacities"]]["exp_avg"].any()


def test_when_it_grows_and_resets():
    class Noted(Growth):
        def grow(self, scene, optimiser, generator, settled):
            events.append("settled" if settled else "grows")

    growth, calls = Noted(since=2, until=9, every=2, reset=3, wide_since=6), {}
    for iteration in range(1, 13):
        scene, events = made(3), []
        growth(iteration - 1, scene, adam(scene), seeded(0))
        calls[iteration] = " ".join([*events, *["resets"] * bool(scene.opacities.max() < 0.011)])
    assert {k: v for k, v in calls.items() if v} == {3: "resets", 4: "grows", 6: "grows resets", 8: "settled"}


def test_a_clone_covers_once_more():
    """Two equal Gaussians, one behind the other, let (1 - alpha)^2 through."""
    scene = made(1, scales=(0.2, 0.3), opacities=(0.3, 0.4))
    before = scene.render(orbit(0.0), 24, BLACK).alpha
    grown(scene, adam(scene), torch.ones(1), gradient=0.5, split=1.0)
    assert len(scene) == 2 and before.max() > 0.2
    torch.testing.assert_close(scene.render(orbit(0.0), 24, BLACK).alpha, 1 - (1 - before) ** 2)


def test_halves_are_drawn_from_their_parent():
    """Their centres have its mean and its covariance R diag(s^2) R^T."""
    one = made(1, scales=(0.05, 0.5))
    scene = Gaussians.from_raw({name: leaf.repeat(4000, *[1] * (leaf.ndim - 1)) for name, leaf in one.raw.items()})
    grown(scene, adam(scene), torch.ones(4000), gradient=0.5, split=0.01)
    R, variance = quats_to_matrices(one.quats)[0], one.scales[0].square().diag()
    assert len(scene) == 8000
    torch.testing.assert_close(scene.scales, (one.scales / 1.6).expand(8000, 3))
    torch.testing.assert_close(scene.means.T.cov(), R @ variance @ R.T, atol=0.05 * variance.max().item(), rtol=0)
    torch.testing.assert_close(scene.means.mean(0), one.means[0], atol=0.02, rtol=0)


@pytest.mark.parametrize("settled", [False, True])
def test_removed_are_those_beyond_a_threshold_and_no_others(settled):
    """Faint, wide, and large on the screen; the last two count once settled. Each beside one just within."""
    scene = made(6, scales=(0.1, 0.1))
    with torch.no_grad():
        scene.raw["opacities"][:2] = torch.tensor([0.0049, 0.0051]).logit()
        scene.raw["scales"][2:4] = torch.tensor([[0.1, 0.351, 0.1], [0.349, 0.1, 0.1]]).log()
    radius, means = torch.tensor([0, 0, 0, 0, 0.041, 0.039]), scene.means.detach().clone()
    grown(scene, adam(scene), torch.zeros(6), step=20, radius=radius, wide_since=20 if settled else 21, screen=0.04)
    assert torch.equal(scene.means, means[[1, 3, 5]] if settled else means[1:])


def test_halves_of_what_is_large_on_the_screen_stay():
    """They have not been seen yet; an equal one that does not grow goes. And what was seen is forgotten."""
    scene = made(3, scales=(0.1, 0.1))
    growth = grown(scene, adam(scene), torch.tensor([1.0, 0, 0]), step=5, radius=torch.tensor([0.1, 0.1, 0.01]), gradient=0.5,
                   split=0.05, wide_since=0, screen=0.04)
    assert len(scene) == 3 and torch.allclose(scene.scales[1:], torch.tensor(0.1 / 1.6)) and growth.state_dict() == {}


def test_the_strongest_pull_grows_at_and_above_the_threshold_while_there_is_room():
    for most, children in ((100, [1, 2, 3]), (12, [1, 3]), (11, [3]), (10, []), (4, [])):
        scene, pull = made(10), torch.tensor([0.1, 0.5, 0.5, 0.9, *[0.0] * 6])
        means = scene.means.detach().clone()
        grown(scene, adam(scene), pull, gradient=0.5, split=1.0, most=most)
        assert torch.equal(scene.means, means[[*range(10), *children]])


def test_survivors_keep_their_moments_and_new_ones_start_at_rest():
    scene = made(30, scales=(0.02, 0.04))
    with torch.no_grad():
        scene.raw["opacities"][3] = -7.0
    optimiser = adam(scene, steps=4)
    before, pull = snapshot(scene, optimiser), torch.zeros(30).index_fill(0, torch.tensor([5, 9]), 1.0)
    grown(scene, optimiser, pull, gradient=0.5, split=0.05)
    after, kept = everything(scene, optimiser), [i for i in range(30) if i != 3]
    assert len(scene) == 31
    for name, value in after.items():
        if name.endswith("step"):
            assert torch.equal(value, before[name])
        else:
            assert torch.equal(value[:29], before[name][kept]), name
            assert torch.equal(value[29:], 0 * before[name][[5, 9]] if "exp" in name else before[name][[5, 9]]), name
    for p in scene.parameters().values():
        p.grad = torch.ones_like(p)
    optimiser.step()
    assert not torch.equal(scene.state_dict()["means"][29:], before["means"][[5, 9]])  # and the optimiser moves them


def test_nothing_left_changes_nothing():
    scene = made(20, opacities=(0.006, 0.009))
    settings = ALWAYS | {"opacity": 0.02, "reset_to": 0.03, "gradient": 0.1, "reset": 1}
    optimiser, growth = adam(scene, steps=2), Growth(**settings)
    growth.load_state_dict(seen(torch.rand(20, generator=seeded(0))))
    before, observed, leaves = snapshot(scene, optimiser), growth.state_dict(), dict(scene.raw)
    with pytest.raises(ValueError, match="none of 20 Gaussians would be left, with opacity=0.02 .* lower opacity"):
        growth(0, scene, optimiser, seeded(0))
    assert same(everything(scene, optimiser), before) and same(growth.state_dict(), observed)
    assert all(scene.raw[name] is leaf for name, leaf in leaves.items())


def observed(scene, cameras, resolution, loss):
    """Mean pull of each Gaussian in one step on the mean of ``loss(picture)`` over the views, and what was seen."""
    growth, render = Growth(), scene.render(cameras, resolution, BLACK)
    torch.stack([loss(rgb) for rgb in render.rgb]).mean().backward()
    growth.observe(render)
    state = growth.state_dict()
    return state["pull"] / state["views"].clamp(min=1), state


def across(rgb):
    """sum_p x_p red_p, with x in half images, times the share of the picture that a pixel is."""
    x = (torch.arange(len(rgb)) + 0.5) * 2 / len(rgb) - 1
    return (x.to(rgb) * rgb[..., 0]).mean()


@pytest.mark.parametrize("resolution", [32, 64])
def test_pull_in_closed_form(resolution):
    """Moving a blob by d half images moves sum_p x_p red_p by d sum_p red_p, so that is the pull, at any resolution.

    The cut at alpha = 1/255 takes (1/255) / opacity ln(255 opacity) of it, 2.4 %."""
    scene = Gaussians(torch.zeros(1, 3), torch.eye(4)[:1], torch.full((1, 3), 0.12), torch.tensor([0.9]), torch.ones(1, 3))
    pull, _ = observed(scene, orbit(30.0), resolution, across)
    red = scene.render(orbit(30.0), resolution, BLACK).rgb[..., 0].mean()
    torch.testing.assert_close(pull, red[None] * (1 - 0.024), rtol=0.01, atol=0)


def test_a_view_counts_the_same_in_any_batch():
    scene, loss = made(30), lambda rgb: (rgb - 0.3).square().sum()
    alone, state = observed(scene, orbit([40.0]), 32, loss)
    thrice, states = observed(scene, orbit([40.0] * 3), 32, loss)
    torch.testing.assert_close(thrice, alone, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(states["radius"], state["radius"])
    assert torch.equal(states["views"], 3 * state["views"]) and alone.max() > 0

    growth = Growth()
    for azimuth in (40.0, 130.0):
        render = scene.render(orbit([azimuth]), 32, BLACK)
        loss(render.rgb).backward()
        growth.observe(render)
    together, both = observed(scene, orbit([40.0, 130.0]), 32, loss)
    torch.testing.assert_close(growth.state_dict(), both, rtol=1e-4, atol=1e-5)


def test_only_views_that_draw_a_gaussian_count():
    """Behind the camera, beside the picture, too faint, in one view of two, in both."""
    scene = made(5, scales=(0.02, 0.05))
    with torch.no_grad():
        scene.raw["means"].copy_(torch.tensor([[9.0, 9, 0], [0, 0, 5], [0, 0, 0], [0, 0.95, 0], [0, 0, 0.1]]))
        scene.raw["opacities"][2] = -9.0
    cameras = orbit([0.0, 90.0], 0.0, [2.4, 1.0])  # the second stands just in front of the fourth
    render = scene.render(cameras, 32, BLACK)
    alone = [scene.render(cameras[i:i + 1], 32, BLACK).alpha.max() for i in (0, 1)]
    assert min(alone) > 0
    _, state = observed(scene, cameras, 32, lambda rgb: rgb.square().sum())
    assert torch.equal(state["views"], (render.radii > 0).all(-1).sum(0).float())
    assert state["views"].tolist() == [0, 0, 0, 2, 2] and state["pull"].isfinite().all()
    assert not state["pull"][:3].any() and (state["pull"][4:] > 0).all() and not state["radius"][:3].any()
    torch.testing.assert_close(state["radius"], render.radii.amax((0, 2)) / 32)


def test_a_splat_says_where_its_gaussians_fell_and_keeps_the_gradient_only_if_there_is_one():
    scene = made(20)
    render = scene.render(ring(2), 24, BLACK)
    assert render.means2d.shape == render.radii.shape == (2, 20, 2) and not render.radii.requires_grad
    render.rgb.sum().backward()
    assert render.means2d.grad.abs().sum() > 0
    with torch.no_grad():
        assert not scene.render(ring(2), 24, BLACK).means2d.requires_grad
    centred = Gaussians(torch.zeros(1, 3), torch.eye(4)[:1], torch.full((1, 3), 0.1), torch.ones(1), torch.ones(1, 3))
    render = centred.render(ring(3), 24, BLACK)
    torch.testing.assert_close(render.means2d, torch.full((3, 1, 2), 12.0), atol=1e-4, rtol=0)
    inked = render.alpha[0, 12, :, 0].nonzero()
    assert inked.max() - inked.min() + 1 == pytest.approx(2 * render.radii[0, 0, 0].item(), abs=2)


def fit(steps, growth=None, scene=None, optimiser=None, first=0):
    """Fits a few Gaussians to a cloud of small ones; returns scene, optimiser and the error of a view not fitted to."""
    target = made(150, seed=3, scales=(0.02, 0.06), opacities=(0.8, 0.95))
    scene = scene or Gaussians.ball(40, generator=seeded(0))
    optimiser = optimiser or adam(scene, 0.02)
    cameras = ring(4)
    truth = target.render(cameras, 32, BLACK).rgb.detach()
    for step in range(first, steps):
        render = scene.render(cameras, 32, BLACK)
        loss = (render.rgb - truth).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if growth:
            growth.observe(render)
            growth(step, scene, optimiser, seeded(0, step))
    held_out = [g.render(orbit(45.0), 32, BLACK).rgb for g in (scene, target)]
    return scene, optimiser, (held_out[0] - held_out[1]).square().mean().item()


GROWTH = {"since": 10, "every": 10, "until": 100, "gradient": 3e-4, "split": 0.05, "reset": None, "wide": 2.0}


def test_growth_fits_better():
    (plain, _, before), (scene, optimiser, after) = fit(80), fit(80, Growth(**GROWTH, most=200))
    assert len(plain) == 40 < len(scene) <= 200
    assert after < 0.8 * before
    assert all(value.isfinite().all() for value in everything(scene, optimiser).values())


def test_goes_on_bit_for_bit(tmp_path):
    settings = GROWTH | {"reset": 25, "most": 120}
    scene, optimiser, _ = fit(45, Growth(**settings))
    growth = Growth(**settings)
    half, its, _ = fit(27, growth)
    adams = its.state_dict()
    file = tmp_path / "growth.safetensors"
    save_file(growth.state_dict(), file)
    other = Gaussians.from_raw(half.state_dict())
    resumed, again = Growth(**settings), adam(other, 0.02)
    again.load_state_dict(adams)
    resumed.load_state_dict(load_file(file))
    assert len(growth.state_dict()) == 3 and len(half) != len(scene)
    end, its, _ = fit(45, resumed, other, again, first=27)
    assert same(everything(end, its), everything(scene, optimiser))

    forgetful = adam(last := Gaussians.from_raw(half.state_dict()), 0.02)
    forgetful.load_state_dict(adams)
    end, its, _ = fit(45, Growth(**settings), last, forgetful, first=27)
    assert not same(everything(end, its), everything(scene, optimiser))  # what was seen matters


def test_before_the_first_step_and_for_leaves_that_are_not_trained():
    scene = made(10)
    optimiser = torch.optim.Adam([{"params": [scene.means], "name": "means"}])
    grown(scene, optimiser, torch.ones(10), gradient=0.5, split=10.0)
    assert {len(leaf) for leaf in scene.raw.values()} == {20} and not optimiser.state
    everything(scene, optimiser)
    Growth(reset=1)(0, scene, optimiser, seeded(0))
    assert scene.opacities.max() <= 0.01 + 1e-6


@pytest.mark.parametrize("settings, message", [
    ({"every": 0}, r"every must be a whole number in \[1, .*got 0"), ({"most": 0}, "most must be .* got 0"),
    ({"reset": 0}, "reset must be .* got 0"), ({"since": -1}, r"since must be a whole number in \[0, .*got -1"),
    ({"gradient": 0.0}, "gradient must be a number above 0, got 0"), ({"split": -1.0}, "split must be .* above 0, got -1"),
    ({"wide": float("nan")}, "wide must be a number above 0, got nan"), ({"screen": 0.0}, "screen must be a number above 0"),
    ({"opacity": 0.02}, "opacity 0.02 and reset_to 0.01"), ({"reset_to": 1.0}, "reset_to 1")])
def test_settings_that_cannot_be_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Growth(**settings)


def test_misuse_is_named():
    scene, growth = made(8), Growth(**ALWAYS)
    with pytest.raises(ValueError, match="no render of these 8 Gaussians was observed"):
        growth(0, scene, adam(scene), seeded(0))
    with pytest.raises(ValueError, match="after loss.backward"):
        growth.observe(scene.render(ring(1), 16, BLACK))
    with pytest.raises(ValueError, match="only Gaussians grow"):
        growth.observe(Picture.grey(16).render())
    growth.load_state_dict(seen(torch.ones(9)))
    with pytest.raises(ValueError, match="observed since"):
        growth(0, scene, adam(scene), seeded(0))
    render = scene.render(ring(1), 16, BLACK)
    render.rgb.sum().backward()
    with pytest.raises(ValueError, match="8 Gaussians, those before it 9"):
        growth.observe(render)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="gsplat draws on CUDA only")
def test_the_same_on_cuda():
    """Observed on CUDA what gsplat drew; then grown from what was observed on the CPU, so that no threshold is crossed by an
    ulp: the same Gaussians come and go, with the same moments."""
    observed, ends = {}, {}
    for device in ("cpu", "cuda"):
        scene, growth = made(80).to(device), Growth(**ALWAYS | {"gradient": 1.0, "split": 0.15, "wide": 0.19, "wide_since": 0})
        optimiser = adam(scene, steps=3)
        render = scene.render(ring(3), 64, BLACK)
        render.rgb.square().sum().div(3).backward()
        growth.observe(render)
        growth.load_state_dict({k: v.cpu() for k, v in growth.state_dict().items()})  # as a checkpoint would
        growth.observe(render)
        observed[device] = growth.state_dict()
        growth.load_state_dict({k: v.to(device) for k, v in observed["cpu"].items()})
        growth(0, scene, optimiser, seeded(0))
        ends[device] = everything(scene, optimiser)
    # pulls differ by single pixels at the cut, radii by one pixel, and a box may just touch the image
    for name, (rtol, atol) in {"pull": (0.05, 0.5), "radius": (0, 1.5 / 64), "views": (0, 1)}.items():
        torch.testing.assert_close(observed["cuda"][name].cpu(), observed["cpu"][name], rtol=rtol, atol=atol, msg=name)
    assert ends["cpu"].keys() == ends["cuda"].keys() and len(ends["cpu"]["means"]) != 80
    for name, value in ends["cpu"].items():
        torch.testing.assert_close(ends["cuda"][name].cpu(), value, rtol=1e-4, atol=1e-5, msg=name)
