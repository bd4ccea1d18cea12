"""DreamMapping's recipe: cameras that move in, view prompts, Perp-Neg, rates, regularisers, and the settings of all methods."""
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from zoo import pyramid

from dreamlab import losses
from dreamlab.cameras import LucidOrbit, Orbit, orbit
from dreamlab.losses import Smooth, Surface
from dreamlab.methods import METHODS
from dreamlab.methods.baselines import BASELINES, WITH_MESH
from dreamlab.methods.dreammapping import PAPER
from dreamlab.noise import Schedule, seeded
from dreamlab.pipeline import work
from dreamlab.priors.base import Prior
from dreamlab.priors.diffusion import DiffusionPrior
from dreamlab.prompts import Prompt, ViewPrompts, perp_weights
from dreamlab.render.splat import splat
from dreamlab.rules import CSD, SDS, VDM
from dreamlab.scenes.gaussians import Gaussians
from dreamlab.scenes.growth import Growth
from dreamlab.schedules import Grid, balanced
from dreamlab.settings import name_of, options, owner
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

    def embed(self, texts, negative=False):
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
    knots = ((0.0, 4.0), (0.5, 4.0), (0.5, 1.0), (1.0, 3.0))
    assert [rate_at(knots, share) for share in (0.0, 0.4, 0.5, 0.75, 1.0)] == [4, 4, 1, 2, 3]
    part = METHODS["dreammapping"].toy["shape"]
    for wrong in (((0.1, 1e-3), (1.0, 1e-3)), ((0.0, 1e-3), (0.6, 1e-3), (0.4, 1e-3))):
        with pytest.raises(ValueError, match=r"knots of rates.means begin at share 0 and their shares rise, got \[.*: sort"):
            part.set({"rates.means": wrong})
    assert part.set({"rates.means": [[0, 1e-3], [1, 1e-4]]}).rates["means"] == ((0.0, 1e-3), (1.0, 1e-4))


def test_rates_of_geodream_are_those_of_its_figure_6():
    """As its official code counts them, in iterations of 20,000."""
    rates, table = METHODS["geodream"].paper["neus"].rates, {
        "volume": {0: 1e-3, 3499: 1e-3, 3500: 1e-4, 5000: 1.7e-4, 10_000: 3.9e-4, 15_000: 6.2e-4, 20_000: 8.4e-4},
        "grid": {0: 5e-3, 3499: 5e-3, 3500: 5e-3, 5000: 4.6e-3, 10_000: 3.5e-3, 15_000: 2.3e-3, 20_000: 1.08e-3},
        "color": {0: 5e-4, 3499: 5e-4, 3500: 5e-4, 5000: 4.6e-4, 10_000: 3.5e-4, 15_000: 2.3e-4, 20_000: 1.08e-4}}
    for leaf, wanted in table.items():
        for step, rate in wanted.items():
            assert rate_at(rates[leaf], step / 20_000) == pytest.approx(rate, rel=0.025), (leaf, step)


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
    render = splat(scene.means, scene.quats, scene.scales, scene.opacities, scene.colors, orbit(0.0), 16, torch.ones(3))
    loss = Smooth(scale=1.0, tv=0.0)(scene, render)
    for sign in (1, -1):
        grad, = torch.autograd.grad(sign * loss, scene.raw["scales"], retain_graph=True)
        assert (sign * grad >= 0).all() and grad.abs().sum() > 0
    with pytest.raises(ValueError, match="scale must be 0 for a NeRF, which has no scales, got 2.5"):
        METHODS["field"].toy["shape"].set(regularise=Smooth()).build("a red mug")
    with pytest.raises(ValueError, match="growth is for Gaussians, got a NeRF"):
        METHODS["field"].toy["shape"].set(growth="Growth").build("a red mug")


# settings and stages


@pytest.fixture(scope="module")
def prior():
    return DiffusionPrior.load()


@pytest.fixture
def toy():
    """A maker of small parts of a method."""
    def make(name="dreammapping", **changes):
        part, = METHODS[name].toy.values()
        views = getattr(part.cameras, "joined", 1)
        small = {"start.samples": 8, "views": views} if "samples" in options(part.start) else {"start.points": 60}
        return part.set(small | {"resolution": 32} | changes)

    return make


def test_the_defaults_are_the_papers():
    rule, start = (options(x) for x in (PAPER.rule, PAPER.start))
    assert [rule[name][1] for name in ("guidance", "cutoff", "lr")] == [7.5, 300, 0.01] and name_of(PAPER.rule) == "VDM"
    assert (start["points"][1], start["prior"][1], PAPER.steps, PAPER.views) == (50_000, "shap-e", 5000, 4)
    assert isinstance(PAPER.growth, Growth) and isinstance(PAPER.cameras, LucidOrbit)


def test_the_scene_goes_where_the_given_prior_is(monkeypatch, prior, toy):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # a notebook on a machine with a GPU, its prior on the CPU
    for name in ("dreammapping", "ball", "field"):
        made = toy(name).build("a red mug", prior)
        assert {leaf.device for leaf in made.scene.parameters().values()} == {prior.device}


def test_a_rule_with_a_grid_keeps_the_grids_steps_and_weight(prior, toy):
    """What DreamFlow says, and not what a number of steps happens to be."""
    t = torch.tensor([900])
    made = toy(rule="APFO").build("a red mug", prior)
    assert made.timesteps is made.rule.grid and (made.steps, made.timesteps) == (200, Grid())
    assert torch.equal(made.rule.weight(prior.schedule, t), made.timesteps.weight(prior.schedule, t))
    first = toy(**{"rule": "APFO", "rule.grid.end": 199, "rule.grid.points": 800, "rule.grid.views": 5})
    field = first.build("a red mug", prior)
    assert field.steps == 4000 and field.timesteps.bounds(3999, 4000) == (200, 200)
    sds = toy(rule="SDS").build("a red mug", prior)
    assert torch.equal(sds.rule.weight(prior.schedule, t), balanced(prior.schedule, t))
    assert toy(timesteps="Grid").build("a red mug", prior).steps == 200


def test_a_radiance_field_of_the_recipe_takes_a_step(prior):
    small = METHODS["field"].paper["shape"].set({
        "prior": "toybox", "steps": 1, "views": 1, "resolution": 16, "start.samples": 8, "start.levels": 2, "start.finest": 32,
        "prompts": partial(ViewPrompts)})
    plan = small.build("a red mug", prior)
    assert plan.growth is None and len(list(run(plan, progress=False))) == 1


def test_the_largest_t_may_jump():
    """ProlificDreamer's drops to 500 after a fifth of the run, GaussianDreamer's to 550 after 500 of 1200 steps."""
    for name, step, before, after in (("prolificdreamer", 5000, 980, 500), ("gaussiandreamer", 500, 980, 550)):
        part = METHODS[name].paper["shape"]
        assert part.timesteps.t_max(step - 1, part.steps) == before and part.timesteps.t_max(step, part.steps) == after


def test_a_ball_has_the_opacity_and_width_that_are_asked_for(prior, toy):
    thin, plain, wide = (toy("ball", **changes).build("a red mug", prior).scene
                         for changes in ({"start.opacity": 0.1}, {}, {"start.spread": 2.0}))
    assert thin.opacities.mean().item() == pytest.approx(0.1) and plain.opacities.mean().item() == pytest.approx(0.3)
    assert torch.allclose(wide.scales, 2 * plain.scales)


@pytest.mark.parametrize("name", [m.name for m in BASELINES] + ["dreammapping", "ball", "field"])
def test_every_method_takes_a_step_at_toy_size(name, prior, toy):
    plan = toy(name, steps=1).build("a red mug", prior)
    assert type(plan.rule) is owner(METHODS[name].paper["shape"].rule)
    assert type(plan.scene) is METHODS[name].paper["shape"].scene
    before = {k: v.detach().clone() for k, v in plan.scene.parameters().items()}
    step, = run(plan, progress=False)
    assert step.grad_norm > 0 and any(not torch.equal(v, before[k]) for k, v in plan.scene.parameters().items())


SMALL = {"start.levels": 2, "start.finest": 32, "start.hidden": 8, "start.samples": 16, "start.cells": 14}


@pytest.mark.parametrize("name, tier", [(method.name, tier) for method in WITH_MESH for tier in ("toy", "paper")])
def test_methods_with_a_mesh_go_from_part_to_part_in_both_tiers(name, tier, prior):
    """At a small size and under the toybox's prior; each part moves what it has rates for, and nothing else."""
    method, changes = METHODS[name], {}
    for at, part in method.parts(tier).items():
        small = {path: value for path, value in SMALL.items() if path.split(".")[1] in options(part.start)}
        small |= {"prior": "toybox", "steps": 1, "views": 2, "resolution": 16, "cameras": "Orbit"}
        small |= {"start.file": pyramid()} if "file" in options(part.start) else {}
        changes |= {f"{at}.{path}": value for path, value in small.items()}
    seen = []
    for item in work(method.ask("a red mug", tier, changes=changes), prior=prior):
        before = {k: v.detach().clone() for k, v in item.stage.scene.parameters().items()}
        step, = item.run(progress=False)
        moved = {k.split(".")[0] for k, v in item.stage.scene.parameters().items() if not torch.equal(v, before[k])}
        assert step.grad_norm > 0 and moved == item.part.rates.keys(), (item.name, moved)
        seen.append(item.name)
    assert seen == list(method.paper)


def test_methods_with_a_mesh_have_the_published_numbers():
    """threestudio's: guidance 100 is 101 here; t jumps at step 5000."""
    parts = {(m.name, at): part for m in WITH_MESH for at, part in m.paper.items()}
    read = {key: (name_of(p.rule), p.rule.keywords["guidance"], p.rule.keywords["weight"].__name__,
                  *(p.timesteps.t_max(step, p.steps) for step in (4999, 5000)), p.steps, p.resolution, name_of(p.look))
            for key, p in parts.items()}
    assert read == {
        ("magic3d", "nerf"): ("SDS", 101, "one", 980, 980, 10_000, 64, "rgb"),
        ("magic3d", "refine"): ("SDS", 101, "sigma2", 500, 500, 5000, 512, "rgb"),
        ("fantasia3d", "geometry"): ("SDS", 101, "alpha_sigma2", 500, 500, 10_000, 512, "normals"),
        ("fantasia3d", "texture"): ("SDS", 101, "sigma2", 500, 500, 5000, 512, "rgb"),
        ("prolificdreamer-mesh", "nerf"): ("VSD", 7.5, "sigma2", 980, 500, 25_000, 64, "rgb"),
        ("prolificdreamer-mesh", "geometry"): ("SDS", 101, "sigma2", 980, 500, 15_000, 512, "normals"),
        ("prolificdreamer-mesh", "texture"): ("VSD", 7.5, "sigma2", 980, 500, 30_000, 512, "rgb"),
        ("texture-mesh", "texture"): ("SDS", 101, "sigma2", 500, 500, 5000, 512, "rgb")}
    assert parts["magic3d", "refine"].regularise == Surface(1e4, 0.0)
    assert parts["prolificdreamer-mesh", "geometry"].regularise == Surface(1e4, 1e4)


def test_the_whole_recipe_runs_at_a_small_size(tmp_path, prior, toy):
    """Growth, moving cameras, mixed views, Perp-Neg, regularisers and pairs of rates at once; and it resumes bit for bit."""
    part = toy(**{
        "steps": 6, "start.points": 150, "prompts.interpolate": True, "prompts.perp_neg": True, "regularise": Smooth(2.5, 2.5),
        "decay": "constant", "cameras": LucidOrbit(radius=(2.4, 2.6), nearest=(2.0, 2.2)),
        "rates": {"means": (1e-2, 1e-3), "scales": 5e-3, "quats": 1e-3, "opacities": 5e-2, "colors": 5e-2},
        "growth": Growth(since=0, until=6, every=2, gradient=0.2, split=0.03, reset=5, wide_since=100)})
    whole, first, again = (part.build("a red mug", prior) for _ in range(3))
    steps = list(run(whole, progress=False))
    assert len(whole.scene) > 150 and len(steps) == 6
    file = tmp_path / "checkpoint.safetensors"
    for step in run(first, file, every=1, progress=False):
        if step.step == 2:
            break
    assert [s.step for s in run(again, file, progress=False)] == [3, 4, 5]
    assert len(again.scene) == len(whole.scene)
    assert all(torch.equal(again.scene.raw[k], v) for k, v in whole.scene.raw.items())


def test_a_long_prompt_is_refused_before_any_work(prior, toy):
    with pytest.raises(ValueError, match="tokens and the text encoder reads"):
        toy().build("a red mug " + "and a mug " * 70, prior)


def test_seeds_reach_everything_that_is_random(prior, toy):
    """Start, operator, LoRA's weights and the critic's draws; and one seed is one run."""
    for name, changes in (("dreammapping", {}), ("field", {}), ("dreammapping", {"rule": "VSD"})):
        part = toy(name, **changes)
        a, b, c = (part.build("a red mug", prior, seed) for seed in (0, 0, 1))
        first = lambda plan: [next(iter(plan.scene.parameters().values())), next(  # noqa: E731
            v for k, v in plan.rule.state_dict().items() if v.numel() > 1 and v.any())]
        assert all(torch.equal(x, y) for x, y in zip(first(a), first(b), strict=True))
        assert all(not torch.equal(x, y) for x, y in zip(first(a), first(c), strict=True))
    x = torch.zeros(4, *prior.shape)
    assert not torch.equal(a.rule.critic.draw(x)[1], c.rule.critic.draw(x)[1])


def test_no_two_streams_share_numbers(prior):
    """At seed 0 the pictures' start and the critic's first noise were one stream, shifted (correlation 0.49)."""
    plan = METHODS["text2image"].toy["pictures"].set(rule="VSD").build("a red mug", prior, 0)
    start = plan.scene.x.detach().flatten()
    drawn = {"critic": plan.rule.critic.draw(plan.scene.x)[1].flatten(), "step 0": torch.randn(8192, generator=seeded(0))}
    for other in drawn.values():
        both = [torch.fft.rfft(x - x.mean(), 2 * len(start)) for x in (start, other)]
        shifted = torch.fft.irfft(both[0] * both[1].conj()) / (start.std() * other.std() * len(start))
        assert shifted.abs().max() < 0.08  # of 16384 shifts; 5 standard deviations of chance are 0.055
