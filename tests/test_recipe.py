"""DreamMapping's recipe: cameras that move in, view prompts, Perp-Neg, rates, regularisers, and the settings of all methods."""
import math
from dataclasses import fields, replace

import pytest
import torch

from dreamlab import losses
from dreamlab.cameras import LucidOrbit, Orbit, orbit
from dreamlab.noise import Schedule, seeded
from dreamlab.pipelines.baselines import BASELINES
from dreamlab.pipelines.dreammapping import Settings, regularise, stage, start
from dreamlab.priors.base import Prior
from dreamlab.priors.diffusion import DiffusionPrior
from dreamlab.prompts import Prompt, ViewPrompts, perp_weights
from dreamlab.render.splat import splat
from dreamlab.rules import CSD, SDS, VDM
from dreamlab.scenes.gaussians import Gaussians
from dreamlab.scenes.growth import Growth
from dreamlab.scenes.nerf import NeRF
from dreamlab.schedules import balanced
from dreamlab.stage import rate_at, run

# cameras


def test_aim_is_what_the_middle_of_the_picture_shows():
    target = torch.tensor([[0.1, -0.2, 0.15]]).repeat(3, 1)
    cameras = replace(orbit([0.0, 100.0, 230.0], [-10.0, 20.0, 60.0]), target=target, roll_deg=torch.tensor([0.0, 30.0, -70.0]))
    seen = torch.einsum("bij,bj->bi", cameras.viewmats[:, :3, :3], target) + cameras.viewmats[:, :3, 3]
    assert seen[:, :2].abs().max() < 1e-6 and (seen[:, 2] > 0).all()
    eye = torch.eye(3).expand(3, 3, 3)
    assert torch.allclose(cameras.viewmats[:, :3, :3] @ cameras.viewmats[:, :3, :3].mT, eye, atol=1e-6)
    assert torch.allclose(torch.linalg.det(cameras.viewmats[:, :3, :3]), torch.ones(3))


def test_roll_turns_the_picture_by_its_angle():
    """A point to the right of the middle goes up by a camera turned clockwise: seen from there the world turns back."""
    flat = orbit(0.0, 0.0)
    rolled = replace(flat, roll_deg=torch.tensor([90.0]))
    point = torch.tensor([0.0, 0.3, 0.0])  # on the camera's right, for it stands on +x
    right = flat.viewmats[0, :3, :3] @ point
    assert right[0] > 0.29 and (rolled.viewmats[0, :3, :3] @ point)[1] < -0.29


def test_orbit_draws_from_its_ranges_only():
    ranges = Orbit((10.0, 20.0), (3.0, 4.0), (30.0, 50.0), azimuth_deg=(-80.0, 80.0), aim=0.1, roll_deg=2.0)
    drawn = ranges.sample(400, seeded(0))
    away = (drawn.azimuth_deg + 180) % 360 - 180
    assert away.abs().max() <= 80 and away.min() < -70 and away.max() > 70
    for name in ("elevation_deg", "radius", "fov_deg"):
        low, high = getattr(ranges, name)
        assert low <= getattr(drawn, name).min() and getattr(drawn, name).max() <= high
    assert abs(drawn.target.std() / 0.1 - 1) < 0.1 and abs(drawn.roll_deg.std() / 2 - 1) < 0.15
    plain = Orbit().sample(4, seeded(0))
    assert (plain.target == 0).all() and (plain.roll_deg == 0).all() and (plain.fov_deg == 40).all()


def test_lucid_cameras_move_in_as_published():
    """Radius 5.2-5.5 to 3.5-5.0 by iteration 4000 of 5000, the lower field of view to 0.16 radians; heads widen from 80."""
    at = LucidOrbit().at
    assert at(499, 5000).radius == (5.2, 5.5) and at(500, 5000).radius == pytest.approx((5.2 * 0.95, 5.5 * 0.95))
    assert at(4000, 5000).radius == (3.5, 5.0) and at(3999, 5000).radius[0] > 3.5
    assert at(4999, 5000).fov_deg == (9.2, 34.4) and math.radians(9.2) == pytest.approx(0.16, abs=1e-3)
    assert at(2500, 5000) == at(250, 500)  # a share of the run, however long it is
    head = LucidOrbit(azimuth_deg=(-80.0, 80.0), wider=1.5)
    assert head.at(500, 5000).azimuth_deg == (-120.0, 120.0) and head.at(1500, 5000).azimuth_deg == (-180.0, 180.0)


# prompts


class Words(Prior):
    """Embeds a text as one hot: front, side, back, anything else; predicts what it was told, times x_t's own level."""

    def __init__(self):
        self.schedule, self.shape = Schedule.scaled_linear(), (4,)

    @property
    def null(self):
        return torch.zeros(1, 4)

    def embed(self, texts):
        names = ["front view", "side view", "back view"]
        return torch.stack([torch.eye(4)[next((i for i, n in enumerate(names) if n in t), 3)] * bool(t) for t in texts])

    def _eps(self, x_t, t, cond):
        return cond.expand_as(x_t) @ MIX


MIX = torch.tensor([[1.0, 0.2, 0, 0], [0.3, 1, 0.1, 0], [0, 0.4, 1, 0], [0, 0, 0, 1]])  # so that views are not perpendicular


def test_interpolated_prompts_are_pure_at_90_degrees_and_mixed_between():
    mixed = ViewPrompts(Words(), "a cat", interpolate=True)(orbit([0.0, 45.0, 90.0, 135.0, 180.0, 270.0, -30.0])).positive
    want = torch.tensor([[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 1], [0, 1, 0], [2 / 3, 1 / 3, 0]])
    assert torch.allclose(mixed[:, :3], want, atol=1e-6)
    named = ViewPrompts(Words(), "a cat")(orbit([40.0, 50.0])).positive
    assert torch.equal(named, torch.eye(4)[:2])


def test_perp_neg_weights():
    """Nothing is taken off at the front; from the back both the front, with 2, and nothing of the side."""
    front, side = perp_weights(torch.tensor([0.0, 10.0, 45.0, 89.99, 90.01, 135.0, 180.0]))
    assert (front[:2] == 0).all() and front[2] == pytest.approx(-2 * math.exp(-1)) and front[3] == pytest.approx(-2, abs=1e-3)
    assert (front[4:] == -2).all()
    assert side[2] == pytest.approx(-2 * math.exp(-5)) and side[3] == 0 and side[4] == 0
    assert side[5] == pytest.approx(-math.exp(-5)) and side[6] == pytest.approx(-1)


@pytest.mark.parametrize("rule", [SDS(guidance=3.0), CSD(), VDM.for_prior(Words(), guidance=3.0)])
def test_perp_neg_moves_only_across_the_guidance(rule):
    prior, camera = Words(), orbit([60.0, 150.0])
    prompts = ViewPrompts(prior, "a cat", perp_neg=True)
    plain, steered = ViewPrompts(prior, "a cat", interpolate=True)(camera), prompts(camera)
    x_t, t = torch.randn(2, 4, generator=seeded(0)), torch.tensor([300, 300])
    y, null = prior.predict(x_t, t, plain)
    z, same = prior.predict(x_t, t, steered)
    moved = z - y
    assert torch.equal(null, same) and moved.norm(dim=1).min() > 0.05
    assert (moved * (y - null)).sum(1).abs().max() < 1e-6  # guidance towards the prompt loses nothing
    front = prior.predict(x_t, t, Prompt(torch.eye(4)[:1], prior.null))[0] - null
    assert ((moved * front).sum(1) < 0).all()  # away from the front
    assert torch.equal(prior.guided(x_t, t, steered, 3.0), null + 3 * (z - null))
    x, eps = torch.randn(2, 4, generator=seeded(1)), torch.randn(2, 4, generator=seeded(2))
    with_it = rule(prior, x, t, eps, steered).value
    assert not torch.allclose(with_it, rule(prior, x, t, eps, plain).value)


def test_perp_neg_of_parallel_views_does_nothing():
    prior = Words()
    y = torch.tensor([[0.5, 0.5, 0, 0]])
    steered = Prompt(y, prior.null, perp=((2 * y, torch.tensor([-2.0])),))
    x_t, t = torch.zeros(1, 4), torch.tensor([100])
    assert torch.allclose(prior.predict(x_t, t, steered)[0], prior.predict(x_t, t, Prompt(y, prior.null))[0], atol=1e-6)


# rates and regularisers


def test_rates_fall_log_linearly_or_stay():
    assert rate_at((1e-2, 1e-4), 0.0) == 1e-2 and rate_at((1e-2, 1e-4), 0.5) == pytest.approx(1e-3)
    assert rate_at((1e-2, 1e-4), 1.0) == pytest.approx(1e-4) and rate_at(3e-3, 0.7) == 3e-3


def test_total_variation_is_the_mean_squared_slope():
    ramp = torch.arange(8.0).view(1, 1, 8, 1).expand(2, 5, 8, 3) * 0.1
    assert losses.total_variation(ramp) == pytest.approx(0.01) and losses.total_variation(torch.ones(1, 4, 4, 1)) == 0
    assert losses.total_variation(ramp.transpose(1, 2)) == pytest.approx(0.01)


def test_disparity_is_one_at_the_nearest_and_zero_where_nothing_is():
    depth, alpha = torch.tensor([2.0, 4.0, 0.0]).view(1, 1, 3, 1), torch.tensor([1.0, 0.5, 0.0]).view(1, 1, 3, 1)
    assert losses.disparity(depth, alpha).flatten().tolist() == pytest.approx([1.0, 0.25, 0.0])
    assert (losses.disparity(torch.zeros(1, 2, 2, 1), torch.zeros(1, 2, 2, 1)) == 0).all()


def test_the_scale_weight_shrinks_gaussians_and_its_flip_swells_them():
    scene = Gaussians.ball(50, generator=seeded(0))
    for weight, sign in ((1.0, 1), (-1.0, -1)):
        loss = regularise(Settings("a red mug", scale_weight=weight, tv_weight=0.0))
        render = splat(scene.means, scene.quats, scene.scales, scene.opacities, scene.colors, orbit(0.0), 16, torch.ones(3))
        grad, = torch.autograd.grad(loss(scene, render), scene.raw["scales"])
        assert (sign * grad >= 0).all() and grad.abs().sum() > 0
    assert regularise(Settings("a red mug", scale_weight=0.0, tv_weight=0.0)) is None


# settings and stages


def test_the_defaults_are_the_papers():
    s = Settings("a red mug")
    assert (s.rule, s.guidance, s.cutoff, s.operator_rate) == ("VDM", 7.5, 300, 0.01)
    assert (s.points, s.steps, s.views) == (50_000, 5000, 4)
    assert isinstance(s.growth, Growth) and isinstance(s.cameras, LucidOrbit) and s.points_prior == "shap-e"


def test_the_scene_goes_where_the_given_prior_is(monkeypatch):
    prior = DiffusionPrior.load()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # a notebook on a machine with a GPU, its prior on the CPU
    for changes in ({}, {"ball": True}, {"scene": "nerf"}):
        made = stage(Settings("a red mug").toy(points=60, **changes), prior)
        assert {leaf.device for leaf in made.scene.parameters().values()} == {prior.device}


def test_a_rule_with_a_grid_keeps_the_grids_weight():
    prior = DiffusionPrior.load()
    made, t = stage(Settings("a red mug", rule="APFO").toy(steps=10, points=60), prior), torch.tensor([900])
    assert torch.equal(made.rule.weight(prior.schedule, t), made.timesteps.weight(prior.schedule, t))
    sds = stage(Settings("a red mug", rule="SDS").toy(points=60), prior)
    assert torch.equal(sds.rule.weight(prior.schedule, t), balanced(prior.schedule, t))


def test_a_radiance_field_of_the_recipe_takes_a_step():
    small = Settings("a red mug", scene="nerf", prior="toybox", steps=1, views=1, resolution=16, samples=8, levels=2, finest=32,
                     negative="", interpolate=False)
    plan = stage(small)
    assert small.growth and plan.growth is None and len(list(run(plan, progress=False))) == 1


def test_the_largest_t_may_jump():
    """ProlificDreamer's drops to 500 after a fifth of the run, GaussianDreamer's to 550 after 500 of 1200 steps."""
    prior = DiffusionPrior.load()
    for name, step, before, after in (("ProlificDreamer", 5000, 980, 500), ("GaussianDreamer", 500, 980, 550)):
        s = Settings("a red mug", **BASELINES[name])
        small = s.toy(points=60, resolution=32, t_max=s.t_max, t_since=s.t_since, t_until=s.t_until)
        timesteps = stage(small, prior).timesteps
        assert timesteps.t_max(step - 1, s.steps) == before and timesteps.t_max(step, s.steps) == after


def test_a_ball_has_the_opacity_and_width_that_are_asked_for():
    thin, toy = (start(Settings("a red mug").toy(ball=True, points=60, **changes)) for changes in ({"opacity": 0.1}, {}))
    wide = start(Settings("a red mug").toy(ball=True, points=60, spread=2.0))
    assert thin.opacities.mean().item() == pytest.approx(0.1) and toy.opacities.mean().item() == pytest.approx(0.3)
    assert torch.allclose(wide.scales, 2 * toy.scales)


@pytest.mark.parametrize("name", BASELINES)
def test_every_method_takes_a_step_at_toy_size(name):
    settings = Settings("a red mug", **BASELINES[name]).toy(steps=1, points=200, resolution=32, samples=8)
    plan = stage(settings)
    assert type(plan.rule).__name__ == BASELINES[name].get("rule", "VDM")
    assert isinstance(plan.scene, NeRF if BASELINES[name].get("scene") == "nerf" else Gaussians)
    before = {k: v.detach().clone() for k, v in plan.scene.parameters().items()}
    step, = run(plan, progress=False)
    assert step.grad_norm > 0 and any(not torch.equal(v, before[k]) for k, v in plan.scene.parameters().items())


def test_the_whole_recipe_runs_at_a_small_size(tmp_path):
    """Growth, moving cameras, mixed views, Perp-Neg, regularisers and pairs of rates at once; and it resumes bit for bit."""
    def make():
        return stage(Settings("a red mug").toy(
            steps=6, points=150, resolution=32, interpolate=True, perp_neg=True, scale_weight=2.5, tv_weight=2.5, decay=None,
            rates={"means": (1e-2, 1e-3), "scales": 5e-3, "quats": 1e-3, "opacities": 5e-2, "colors": 5e-2},
            growth=Growth(since=0, until=6, every=2, gradient=0.2, split=0.03, reset=5, wide_since=100),
            cameras=LucidOrbit(radius=(2.4, 2.6), nearest=(2.0, 2.2))))

    whole = make()
    steps = list(run(whole, progress=False))
    assert len(whole.scene) > 150 and len(steps) == 6
    file = tmp_path / "checkpoint.safetensors"
    for step in run(make(), file, every=1, progress=False):
        if step.step == 2:
            break
    again = make()
    assert [s.step for s in run(again, file, progress=False)] == [3, 4, 5]
    assert len(again.scene) == len(whole.scene)
    assert all(torch.equal(again.scene.raw[k], v) for k, v in whole.scene.raw.items())


@pytest.mark.parametrize("wrong, says", [
    ({"rule": "XYZ"}, "no rule 'XYZ'.*VDM"), ({"operator": "cubic"}, "no operator 'cubic'.*ulite"),
    ({"scene": "mesh"}, "no scene"), ({"weight": "sigma"}, "no weight 'sigma'.*sigma2"),
    ({"perp_neg": True, "view_words": False}, "view_words=True"), ({"perp_neg": True, "rule": "LODS"}, "LODS")])
def test_settings_name_what_is_wrong(wrong, says):
    with pytest.raises(ValueError, match=says):
        Settings("a red mug", **wrong)


def test_a_long_prompt_is_refused_before_any_work():
    with pytest.raises(ValueError, match="tokens and the text encoder reads"):
        stage(Settings("a red mug " + "and a mug " * 70).toy())


def test_every_baseline_sets_fields_that_exist():
    names = {f.name for f in fields(Settings)}
    assert all(set(changes) <= names for changes in BASELINES.values())
