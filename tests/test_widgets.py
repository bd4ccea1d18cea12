"""Widgets are driven from code, and their static twins say the same."""
import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image

from dreamlab.cameras import orbit, ring
from dreamlab.methods import METHODS
from dreamlab.noise import Schedule, randn, seeded
from dreamlab.priors.diffusion import DiffusionPrior
from dreamlab.priors.mixture import GaussianMixturePrior, ImageMixturePrior
from dreamlab.prompts import Prompt
from dreamlab.rules import RULES, SDS, VDM, VSD
from dreamlab.scenes.gaussians import Gaussians
from dreamlab.scenes.picture import Picture
from dreamlab.schedules import Grid
from dreamlab.stage import run
from dreamlab.types import Render
from dreamlab.widgets import gradient_microscope as microscope
from dreamlab.widgets import orbit_viewer as viewer
from dreamlab.widgets import rule_comparison as comparison
from dreamlab.widgets.schedule_explorer import RECIPES, describe, figure, png, recipe, schedule_explorer

TOYBOX = "DreamMapping on the toybox"
MUG = "a red mug"
TWO = {"start.pictures": 2}
PICTURES = METHODS["text2image"].toy["pictures"].set(TWO)


def same_picture(a: bytes, b: bytes) -> bool:
    return np.array_equal(*(np.asarray(Image.open(io.BytesIO(x))) for x in (a, b)))


def in_a_browser(widget) -> bool:
    """ipywidgets 8.1 draws no widget that has a tooltip and no description (its issue 3860): an error stands in its place."""
    return all(in_a_browser(child) for child in getattr(widget, "children", ())) and (
        not widget.tooltip or bool(getattr(widget, "description", None)))


@pytest.fixture(scope="module")
def exact():
    """Eight small pictures, four of them mugs."""
    images = torch.rand(8, 3, 16, 16, generator=seeded(1)) * 2 - 1
    return ImageMixturePrior(images, {"kind": ["mug", "duck"] * 4}, std=0.2)


@pytest.fixture(scope="module")
def histories(exact):
    return comparison.compare(exact, MUG, ("SDS", "VDM"), steps=5, every=2, progress=False, changes=TWO)


# The schedule explorer


def test_recipes_follow_the_methods():
    toy = METHODS["dreammapping"].toy["shape"]
    assert RECIPES[TOYBOX].steps == toy.steps and RECIPES[TOYBOX].rate == toy.decay
    assert RECIPES[TOYBOX].timesteps.bounds(0, toy.steps)[1] == toy.timesteps.start_max
    assert RECIPES[TOYBOX].timesteps.bounds(toy.steps - 1, toy.steps)[1] == toy.timesteps.end_max
    paper = describe("DreamMapping (VDM with DCA)", 1500)
    assert "t from 20 to 500" in paper and "lambda 0.02 to 1.00" in paper
    assert "t from 20 to 980" in describe("DreamFusion (SDS)", 14_999)


def test_a_recipe_is_read_off_any_part():
    t = torch.tensor([50, 150])
    early, never = (recipe(PICTURES.set({f"rule.{k}": v})).lam for k, v in (("cutoff", 100), ("dca", False)))
    schedule = Schedule.scaled_linear()
    assert early(schedule, t)[0] < 1 and early(schedule, t)[1] == 1 and (never(schedule, t) == 1).all()
    own = recipe(PICTURES.set({"rule": "APFO", "rule.grid.points": 30}))
    assert own.timesteps == Grid(points=30) and own.steps == 30 and own.weight == own.timesteps.weight
    assert recipe(PICTURES.set({"timesteps": Grid(points=40), "rule.weight": "sigma2"})).steps == 40


def test_recipes_follow_the_papers():
    vsd = "ProlificDreamer (VSD)"  # it jumps at 5000 of 25000
    assert "t from 20 to 980" in describe(vsd, 4999) and "t from 20 to 500" in describe(vsd, 5000)
    assert "t from 20 to 740" in describe("LucidDreamer (ISM)", 750)  # half-way from 980 to 500
    assert describe("LucidDreamer (ISM)", 4999).endswith("x 0.01")
    for nth, steps, first, last in ((1, 4000, 999, 200), (2, 2000, 799, 400), (3, 2000, 499, 100), (4, 300, 299, 9)):
        name, = (n for n in RECIPES if n.startswith(f"DreamFlow {nth}") and "toybox" not in n)
        assert RECIPES[name].steps == steps
        assert f"t {first}," in describe(name, 0) and f"t {last}," in describe(name, steps - 1)
        assert "w 0.00," not in describe(name, steps - 1)  # small, and still told
    lag = "DreamTime"
    t = [RECIPES[lag].timesteps.bounds(s, RECIPES[lag].steps) for s in range(0, RECIPES[lag].steps, 1000)]
    assert all(low == high for low, high in t) and t == sorted(t, reverse=True)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_draws_within_the_schedule_and_can_be_described(name, generator):
    r = RECIPES[name]
    for step in (0, r.steps // 2, r.steps - 1):
        low, high = r.timesteps.bounds(step, r.steps)
        t = r.timesteps(step, r.steps, 200, generator)
        assert 0 <= low <= t.min() and t.max() <= high < 1000
        assert f"learning rates x {r.rate(step, r.steps):.2f}" in describe(name, step)
        assert 0 <= r.rate(step, r.steps) <= 1


def test_the_figure_draws_the_recipe():
    when, level, lam, weight, rate, level_drawn, lam_drawn, weight_drawn = figure(TOYBOX, 10).axes
    y = lam.get_lines()[0].get_ydata()
    assert y[301] == 1 and y[300] < 0.5  # DCA's jump
    over_steps = (when, rate, level_drawn, lam_drawn, weight_drawn)
    assert [ax.get_lines()[-1].get_xdata()[0] for ax in over_steps] == [10] * 5
    assert weight.get_yscale() == weight_drawn.get_yscale() == "log"
    assert len(level.get_lines()) == 2
    mean = when.get_lines()[0].get_ydata()
    assert mean[0] == pytest.approx((20 + 600) / 2) and mean[-1] < mean[0]


def test_a_grid_draws_its_own_weight():
    name = "DreamFlow 4, refine (APFO)"
    grid = RECIPES[name].timesteps
    *_, weight, _rate, _level, _lam, drawn = figure(name, 0).axes
    assert weight.get_lines()[0].get_xdata().tolist() == grid.t[:-1].tolist()
    y = weight.get_lines()[0].get_ydata()
    assert drawn.get_lines()[0].get_ydata()[[0, -1]].tolist() == pytest.approx(y[[0, -1]].tolist())


@pytest.mark.slow
def test_controls_change_the_picture():
    widget = schedule_explorer()
    assert in_a_browser(widget)
    names, steps, line, shown = widget.children
    first = shown.value
    steps.value = half = steps.max // 2
    assert line.value == describe(TOYBOX, half) and shown.value != first
    assert same_picture(shown.value, png(TOYBOX, half))
    names.value = "DreamFusion (SDS)"
    assert steps.value == 0 and steps.max == RECIPES["DreamFusion (SDS)"].steps - 1
    assert line.value == describe("DreamFusion (SDS)", 0)
    steps.value = 14_999
    names.value = TOYBOX  # its last step is smaller
    assert line.value == describe(TOYBOX, 0)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="no recipe 'x'; there is: DreamFusion"):
        figure("x", 0)
    with pytest.raises(ValueError, match=r"step must lie in \[0, 14999\], got -1"):
        describe("DreamFusion (SDS)", -1)


# The gradient microscope


def test_sds_pulls_to_the_denoised_estimate(exact):
    view = microscope.look(exact, MUG, 400, 3.0, "SDS")
    assert torch.allclose(view.target, view.denoised, atol=1e-4)
    eps, t = randn(tuple(view.x.shape), seeded(0)), torch.tensor([400])
    assert torch.equal(view.x_t, exact.add_noise(view.x, eps, t))
    prompt = Prompt(exact.embed([MUG]), exact.null)
    assert torch.equal(view.residual.value, SDS(guidance=3.0)(exact, view.x, t, eps, prompt).value)
    assert set(view.residual.parts) == {"conditional", "unconditional", "noise"}


def test_inverting_rules_show_the_sample_they_ask_about(exact):
    for name in ("SDI", "PFD"):
        view = microscope.look(exact, MUG, 400, 2.0, name)
        kappa, t = view.residual.parts["variational"], torch.tensor([400])
        assert torch.allclose(view.x_t, exact.add_noise(view.x, kappa, t), atol=1e-4)
    assert "eps" not in vars(exact)  # nobody listens any more


@pytest.mark.parametrize("name", [n for n in RULES if n != "LMCSDS"])
def test_every_rule_can_be_looked_at(exact, name):
    view = microscope.look(exact, MUG, 400, 4.0, name)
    maps = [ax.get_title() for ax in microscope.draw(view).axes]
    text = microscope.sentence(view)
    for part in view.residual.parts:
        size = f"{microscope.rms(view.residual.parts[part]):.2f}"
        assert f"{part}\nrms {size}" in maps and f"{part} {size}" in text
    assert f"residual\nrms {microscope.rms(view.residual.value):.2f}" in maps
    assert ("no guidance" in text) == (view.guidance is None)


def test_parts_share_one_colour_scale(exact):
    shown = {ax.get_title().split("\nrms")[0]: ax.get_images()[0].get_clim() for ax in
             microscope.figure(exact, MUG, 400, 4.0, "VDM").axes if ax.get_images()}
    assert len({shown[part] for part in ("conditional", "unconditional", "noise", "variational")}) == 1
    low, high = shown["residual"]
    assert low == -high and shown["conditional\n- unconditional"] == shown["residual"] != shown["conditional"]


def test_looking_teaches_nothing(exact):
    rule = VDM.for_prior(exact)
    fresh = rule.state_dict()
    view = microscope.look(exact, MUG, 400, 4.0, rule)
    assert view.rule == "VDM (untrained)" and rule.guidance == 7.5
    assert rule.state_dict().keys() == fresh.keys()
    assert all(torch.equal(v, fresh[k]) for k, v in rule.state_dict().items())
    stage = PICTURES.set(steps=2).build(MUG, exact)
    list(run(stage, progress=False))
    taught = microscope.look(exact, MUG, 400, 4.0, stage.rule)
    assert taught.rule == "VDM" and not torch.equal(taught.residual.value, view.residual.value)


def test_the_microscope_reads_latents_and_learnt_critics():
    prior = DiffusionPrior.load()
    view = microscope.look(prior, MUG, 500, 4.5, "VSD")
    assert view.x.shape == (1, *prior.shape) and view.rule == "VSD (untrained)"
    given = torch.full((1, 32, 32, 3), 0.5)
    assert microscope.look(prior, MUG, 500, 4.5, "CSD", given).guidance is None
    assert microscope.cosine(view.x, prior.encode(microscope.references(MUG, 1, 0))) > 0.999


def test_the_microscope_is_driven_by_its_controls(exact):
    widget = microscope.gradient_microscope(exact, [MUG, "a blue duck"], ("SDS", "VDM"), guidance=3.0)
    assert in_a_browser(widget)
    names, texts, times, scale, line, shown = widget.children
    first = shown.value
    names.value, texts.value, times.value, scale.value = "VDM", "a blue duck", 250, 6.0
    now = (exact, "a blue duck", 250, 6.0, "VDM")
    assert line.value == microscope.describe(*now) and shown.value != first
    assert same_picture(shown.value, microscope.png(*now))
    names.value = "SDS"
    names.value = "VDM"  # it has learnt nothing meanwhile
    assert line.value == microscope.describe(*now)


def test_the_microscope_takes_rules_from_a_run(exact):
    mine = {"mine": SDS(guidance=9.0)}
    *_, line, _shown = microscope.gradient_microscope(exact, [MUG], mine, guidance=2.0).children
    assert line.value == microscope.describe(exact, MUG, 500, 2.0, mine["mine"]) and mine["mine"].guidance == 9.0


def test_the_microscope_names_bad_input(exact):
    with pytest.raises(ValueError, match="there is no rule 'sds'; there is: SDS"):
        microscope.look(exact, MUG, 400, 4.0, "sds")
    with pytest.raises(ValueError, match=r"t must lie in \[0, 999\], got 1000"):
        microscope.look(exact, MUG, 1000, 4.0, "SDS")
    with pytest.raises(ValueError, match="guidance must be >= 1 in VSD"):
        microscope.look(exact, MUG, 400, 0.5, "VSD")
    with pytest.raises(ValueError, match="names no colour of the toybox"):
        microscope.look(exact, "a mug", 400, 4.0, "SDS")
    with pytest.raises(ValueError, match="a Prompt of conditions names no toy"):
        microscope.look(exact, Prompt(exact.null, exact.null), 400, 4.0, "SDS")
    with pytest.raises(ValueError, match="shows one picture, got 2"):
        microscope.look(exact, MUG, 400, 4.0, "SDS", torch.zeros(2, 16, 16, 3))
    with pytest.raises(ValueError, match=r"samples of shape \(2,\)"):
        microscope.look(GaussianMixturePrior(torch.zeros(3, 2)), MUG, 400, 4.0, "SDS")
    other = ImageMixturePrior(torch.zeros(2, 3, 8, 8), {"kind": ["mug", "duck"]})
    with pytest.raises(ValueError, match="the critic was built on another prior"):
        microscope.look(exact, MUG, 400, 4.0, VSD.for_prior(other))
    assert "eps" not in vars(exact)  # nor does an error leave a listener behind


# The rule comparison


def test_a_history_is_the_run(exact, histories):
    h = histories["SDS"]
    assert h.kept == [0, 2, 4, 5] and h.pictures.shape == (4, 2, 16, 16, 3) and h.steps == 5
    stage = PICTURES.set(rule="SDS", steps=5).build(MUG, exact)
    start = stage.scene.render().rgb.detach()
    steps = list(run(stage, progress=False))
    assert torch.equal(h.pictures[0], start) and torch.equal(h.pictures[-1], stage.scene.render().rgb.detach())
    assert h.loss == [s.loss for s in steps] and h.t == [int(s.t.max()) for s in steps]
    norms = [s.residual.value.flatten(1).norm(dim=1).mean().item() for s in steps]
    assert h.residual == norms and h.fit == [None] * 5
    assert None not in histories["VDM"].fit
    assert torch.equal(h.pictures[0], histories["VDM"].pictures[0])  # the same noise at the start


def test_any_stage_of_a_picture_is_recorded(exact):
    part = METHODS["text2image-pixels"].toy["pictures"].set({"rule": "CSD", "steps": 1, "start.pictures": 1})
    stage = part.build(MUG, exact)
    h = comparison.record(stage, "CSD in pixels", every=3, progress=False)
    assert h.name == "CSD in pixels" and h.kept == [0, 1] and isinstance(stage.scene, Picture)
    assert 0 <= h.pictures.min() and h.pictures.max() <= 1


def test_a_rule_with_its_own_grid_takes_the_steps_as_points(exact):
    h = comparison.compare(exact, MUG, ("APFO", "CSD"), steps=4, every=2, progress=False, changes=TWO | {"rates.latents": 0.1})
    assert h["APFO"].t == Grid(points=4).t[:-1].tolist() and h["APFO"].kept == h["CSD"].kept == [0, 2, 4]


def test_the_comparison_draws_both(histories):
    a, b = histories.values()
    text = comparison.describe(a, b, 4)
    assert f"SDS with t up to {a.t[3]}, residual norm {a.residual[3]:.3g}" in text and "it learns nothing" in text
    assert f"loss of what it learns {b.fit[3]:.3g}" in text
    assert "SDS has not begun; VDM has not begun" in comparison.describe(a, b, 0)
    fig = comparison.figure(a, b, 4)
    pictures = [ax.get_images()[0].get_array() for ax in fig.axes if ax.get_images()]
    assert np.array_equal(pictures[0], a.pictures[2, 0]) and np.array_equal(pictures[2], b.pictures[2, 0])
    residual, fit = (ax for ax in fig.axes if ax.get_lines())
    assert residual.get_lines()[0].get_ydata().tolist() == a.residual and fit.get_lines()[1].get_ydata().tolist() == b.fit
    assert len([ax for ax in comparison.figure(a, a, 4).axes if ax.get_lines()]) == 1  # nothing is learnt


def test_the_comparison_is_driven_by_its_controls(histories):
    widget = comparison.rule_comparison(histories)
    assert in_a_browser(widget)
    first, second, steps, line, shown = widget.children
    assert first.options == second.options == ("SDS", "VDM") and steps.options == (0, 2, 4, 5)
    before = shown.value
    steps.value = 2
    second.value = "SDS"
    a = histories["SDS"]
    assert line.value == comparison.describe(a, a, 2) and shown.value != before
    assert same_picture(shown.value, comparison.png(a, a, 2))


def test_the_comparison_names_bad_input(exact, histories):
    with pytest.raises(ValueError, match="SDS has no picture after 3 steps; there is one after: 0, 2, 4, 5"):
        comparison.figure(*histories.values(), 3)
    with pytest.raises(ValueError, match="two runs are compared, got"):
        comparison.rule_comparison({"SDS": histories["SDS"]})
    with pytest.raises(ValueError, match="there is no rule 'VDN'"):
        comparison.compare(exact, MUG, ("SDS", "VDN"), steps=10**6)  # said before the first step of the first
    with pytest.raises(ValueError, match="a part has no 'pictures'"):
        comparison.compare(exact, MUG, changes={"pictures": 2})
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        comparison.compare(exact, MUG, steps=2, every=0)
    short = comparison.compare(exact, MUG, ("CSD",), steps=1, progress=False)
    with pytest.raises(ValueError, match="no step in common but the start"):
        comparison.rule_comparison(histories | short)


# The orbit viewer


class Ball:
    """An exact grey ball of radius 0.5 at ``centre``, drawn by its rays; the renders asked for are counted."""

    def __init__(self, centre=(0.0, 0.0, 0.0), grey: float = 0.4):
        self.centre, self.grey, self.asked = torch.tensor(centre), grey, []

    def render(self, cameras, resolution, background, generator=None):
        assert not torch.is_grad_enabled()
        self.asked.append((cameras, resolution))
        eyes, directions = cameras.rays(resolution)
        toward = self.centre - eyes[:, None, None]
        along = (toward * directions).sum(-1, keepdim=True)
        half = 0.25 - toward.square().sum(-1, keepdim=True) + along**2
        alpha, t = (half > 0).float(), along - half.clamp(min=0).sqrt()
        place = eyes[:, None, None] + t * directions
        depth = t * (directions * cameras.viewmats[:, None, None, 2, :3]).sum(-1, keepdim=True)
        return Render(alpha * self.grey + (1 - alpha) * background, alpha, alpha * depth, alpha * (place - self.centre) / 0.5)


def test_maps_are_drawn_as_they_say():
    cameras = orbit([0.0, 90.0], elevation_deg=0.0, radius=3.0)
    render = viewer.look(Ball(), cameras, 33)
    rgb, alpha, depth, normal = (viewer.picture(render, name, cameras) for name in viewer.MAPS)
    assert torch.allclose(rgb[0, 16, 16], torch.tensor(0.4)) and rgb[0, 0, 0].tolist() == [1, 1, 1]
    assert alpha[0, 16, 16].tolist() == [1, 1, 1] and alpha[0, 0, 0].tolist() == [0, 0, 0]
    assert torch.allclose(normal[:, 16, 16], torch.tensor([[1.0, 0.5, 0.5], [0.5, 1.0, 0.5]]), atol=0.02)  # toward the eye
    scale = colormaps["viridis_r"]
    assert np.allclose(depth[0, 16, 16], scale(1 / 7)[:3], atol=0.02)  # 2.5 from 3 away: a seventh from 2.3 to 3.7
    assert (normal[0, 0, 0] == 1).all() and (depth[0, 0, 0] == 1).all()
    near = viewer.picture(viewer.look(Ball((0.4, 0, 0)), cameras, 33), "depth", cameras)
    assert near[0, 16, 16].sum() > depth[0, 16, 16].sum()  # brighter, as nearer


def test_the_viewer_describes_what_it_sees():
    text = viewer.describe(Ball(), orbit([0.0, 130.0], 0.0, 3.0))
    front, side = text.split("; ")
    assert front.startswith("azimuth 0, elevation 0 (front): covers ") and side.startswith("azimuth 130, elevation 0 (side)")
    share = torch.pi * (0.5 / (9 - 0.25) ** 0.5 / np.tan(np.deg2rad(20))) ** 2 / 4  # the cone that touches the ball
    assert f"covers {share:.0%}, colour (0.40, 0.40, 0.40), depth 2.50 to " in front
    assert 2.8 < float(front.split()[-1]) < 3 - 0.25 / 3  # where that cone touches
    assert viewer.describe(Ball((0, 9.0, 0)), orbit(0.0)) == "azimuth 0, elevation 15 (front): covers 0%"


def test_the_ring_is_drawn_in_place():
    scene, cameras = Ball((0.0, 0.3, 0.1)), ring(3)
    fig = viewer.figure(scene, cameras, ("depth", "rgb"), 24)
    render = viewer.look(scene, cameras, 24)
    shown = [ax.get_images()[0].get_array() for ax in fig.axes if ax.get_images() and ax.get_label() != "<colorbar>"]
    wanted = [*viewer.picture(render, "depth", cameras), *viewer.picture(render, "rgb", cameras)]
    assert len(shown) == 6 and all(np.array_equal(a, b) for a, b in zip(shown, wanted, strict=True))
    assert [ax.get_title() for ax in fig.axes[:3]] == ["0°, front", "120°, side", "240°, side"]
    rows = [ax.get_ylabel() for ax in viewer.figure(Picture.grey(16), cameras, None, 16).axes]
    assert rows == ["rgb", "", ""]  # a picture has no depth and no normal


def test_the_viewer_is_driven_by_its_controls():
    generator = seeded(0)
    scene = Gaussians.ball(60, generator=generator)
    widget = viewer.orbit_viewer(scene, resolution=24)
    assert in_a_browser(widget)
    maps, azimuth, elevation, away, sizes, line, shown = widget.children
    assert maps.options == viewer.MAPS and sizes.value == 24
    sizes.value, azimuth.value, elevation.value, away.value, maps.value = 64, 90.0, -30.0, 3.0, "normal"
    cameras = orbit(90.0, -30.0, 3.0)
    assert line.value == viewer.describe(scene, cameras, 64)
    drawn = np.asarray(Image.open(io.BytesIO(shown.value)))
    assert np.array_equal(drawn, viewer.to_uint8(viewer.picture(viewer.look(scene, cameras, 64), "normal", cameras))[0])
    assert viewer.orbit_viewer(Picture.grey(24), resolution=24).children[0].options == ("rgb", "alpha")


def test_the_viewer_shows_every_part_of_a_method():
    parts = {"field": Picture.grey(24), "geometry": Ball(), "texture": Ball((0.2, 0.0, 0.0))}
    widget = viewer.orbit_viewer({name: parts[name] for name in ("geometry", "texture")}, resolution=24)
    assert in_a_browser(widget)
    part, maps, azimuth, *_, line, image = widget.children
    assert part.options == ("geometry", "texture") and maps.options == viewer.MAPS
    maps.value, azimuth.value, before = "depth", 90.0, image.value
    part.value = "texture"
    assert line.value == viewer.describe(parts["texture"], orbit(90.0, 15.0, 2.6, 40.0), 24) and image.value != before
    assert viewer.orbit_viewer(parts, resolution=24).children[1].options == ("rgb", "alpha")  # what all of them give
    with pytest.raises(ValueError, match="there is no scene to look at"):
        viewer.orbit_viewer({})


def test_a_loop_refreshes_the_viewer_without_flooding(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(viewer.time, "monotonic", lambda: now[0])
    scene = Ball()
    widget = viewer.orbit_viewer(scene, resolution=16, pause=0.5)
    line, shown = widget.children[-2:]
    scene.asked.clear()
    before, scene.grey = shown.value, 0.8
    drawn = []
    for step in range(80):  # ten seconds
        now[0] += 0.125
        drawn.append(widget.update(f"step {step}"))
    assert sum(drawn) == len(scene.asked) == 20 and shown.value != before and "colour (0.80" in line.value
    scene.grey, now[0] = 0.2, now[0] + 0.1
    assert not widget.update("too soon") and widget.update("the end", now=True) and line.value.startswith("the end, azimuth")

    def slow(*args):
        now[0] += 3.0  # seconds to draw: then four times as long goes by
        return Ball.render(scene, *args)

    scene.render = slow
    assert widget.update("slow", now=True)
    now[0] += 11.9
    assert not widget.update()
    now[0] += 0.2
    assert widget.update() and line.value.startswith("azimuth")


def test_the_viewer_names_bad_input():
    with pytest.raises(ValueError, match="this scene gives no 'normal'; it gives: rgb, alpha"):
        viewer.figure(Picture.grey(8), None, ("normal",), 8)
    with pytest.raises(ValueError, match="elevation_deg must lie strictly between -90 and 90, got 90"):
        viewer.orbit_viewer(Ball(), elevation_deg=90.0)


@pytest.mark.parametrize("module", ["schedule_explorer", "gradient_microscope", "rule_comparison", "orbit_viewer"])
def test_ipywidgets_are_loaded_only_when_asked_for(module):
    code = f"import dreamlab.widgets.{module}, sys; assert not {{'ipywidgets', 'diffusers'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
