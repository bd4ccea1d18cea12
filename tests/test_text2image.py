"""Text to pictures: the settings reach the rule and the scene, and what comes out is what was asked for."""
import pytest
import torch

from dreamlab.methods import METHODS
from dreamlab.metrics.appearance import fidelity
from dreamlab.noise import randn, stream
from dreamlab.priors.diffusion import DiffusionPrior
from dreamlab.rules import RULES
from dreamlab.schedules import one
from dreamlab.settings import options
from dreamlab.stage import run

LATENTS, PIXELS = METHODS["text2image"].toy["pictures"], METHODS["text2image-pixels"].toy["pictures"]


@pytest.fixture(scope="module")
def prior():
    return DiffusionPrior.load("toybox")


@pytest.mark.parametrize("name", RULES)
def test_settings_reach_every_rule(name, prior):
    part = LATENTS.set(rule=name)
    has = options(part.rule)
    wanted = {"guidance": 3.25, "weight": "one", "critic_rate": 2e-4, "pretrain": 0}
    part = part.set({f"rule.{k}": v for k, v in wanted.items() if k in has})
    rule = part.build("a red mug", prior).rule
    assert type(rule).__name__ == name and rule.weight is one
    assert getattr(rule, "guidance", 3.25) == 3.25
    if critic := getattr(rule, "critic", None):
        assert critic.prior is prior and critic.learner.optimizer.param_groups[0]["lr"] == 2e-4


def test_the_critics_rate_is_the_priors_own_unless_it_is_given(prior):
    rate = lambda part: part.build("a red mug", prior).rule.critic.learner.optimizer.param_groups[0]["lr"]  # noqa: E731
    assert rate(LATENTS.set(rule="VSD")) == prior.card.critic_rate == 0.01
    assert rate(LATENTS.set({"rule": "VSD", "rule.critic_rate": 0.5})) == 0.5


@pytest.mark.parametrize("points, views", [(1, 1), (300, 1), (750, 2)])
def test_the_grid_is_the_run(points, views, prior):
    """APFO's t falls from 999 and its last step is the one to the clean sample; it has as many steps as its grid."""
    plan = LATENTS.set({"rule": "APFO", "rule.grid.points": points, "rule.grid.views": views}).build("a red mug", prior)
    t = [plan.timesteps.bounds(step, plan.steps)[0] for step in range(plan.steps)]
    assert t[0] == 999 and t == sorted(t, reverse=True) and len(t) == points * views and t[-1] == plan.timesteps.t[-2]
    with pytest.raises(ValueError, match="runs at its own timesteps.*got .* steps 50"):
        LATENTS.set({"rule": "APFO", "steps": 50})


def test_pixels_start_where_latents_do(prior):
    latents, pixels = (part.set(rule="SDS").build("a red mug", prior, 5).scene for part in (LATENTS, PIXELS))
    assert list(latents.parameters()) == ["latents"] and list(pixels.parameters()) == ["pixels"]
    assert torch.equal(latents.latent(), randn((4, *prior.shape), stream(5, "start")))
    assert torch.equal(pixels.render().rgb, latents.render().rgb)


@pytest.mark.parametrize("part", [LATENTS, PIXELS])
def test_one_seed_is_one_run(part, prior):
    def go(seed):
        plan = part.set(rule="VSD", steps=2).build("a red mug", prior, seed)
        list(run(plan, progress=False))
        return plan.scene.x.detach()

    first = go(0)
    assert torch.equal(first, go(0)) and not torch.equal(first, go(1))


def test_an_unknown_rule_is_an_error_that_lists_them():
    with pytest.raises(ValueError, match="VSD, VDM, APFO"):
        LATENTS.set(rule="vsd")


@pytest.mark.slow
def test_sds_paints_what_it_is_asked_for(prior):
    """The judge, which rules never see, names kind and colour; the noise at the start is neither."""
    plan = LATENTS.set({"rule": "SDS", "steps": 60, "start.pictures": 2}).build("a blue car", prior)
    start = fidelity(plan.scene.render().rgb, "car", "blue")
    list(run(plan, progress=False))
    end = fidelity(plan.scene.render().rgb, "car", "blue")
    assert min(p.mean().item() for p in end) > 0.9 > 0.5 > max(p.mean().item() for p in start)
