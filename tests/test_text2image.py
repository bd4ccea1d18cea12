"""Text to pictures: the settings reach the rule and the scene, and what comes out is what was asked for."""
import pytest
import torch

from dreamlab.metrics.appearance import fidelity
from dreamlab.noise import randn, seeded
from dreamlab.pipelines.picture import Settings, build, stage
from dreamlab.priors.diffusion import DiffusionPrior
from dreamlab.rules import LMCSDS, RULES
from dreamlab.rules.lmc import Shallow
from dreamlab.schedules import one
from dreamlab.stage import run


@pytest.fixture(scope="module")
def prior():
    return DiffusionPrior.load("toybox")


@pytest.mark.parametrize("name", RULES)
def test_settings_reach_every_rule(name, prior, monkeypatch):
    monkeypatch.setattr(LMCSDS, "for_prior", classmethod(lambda cls, prior, **settings: cls(Shallow(prior.shape), **settings)))
    rule = build(Settings("a red mug", name, guidance=3.25, weight="one", critic_rate=2e-4), prior)
    assert type(rule).__name__ == name and rule.weight is one
    assert getattr(rule, "guidance", 3.25) == 3.25
    if critic := getattr(rule, "critic", None):
        assert critic.prior is prior and critic.learner.optimizer.param_groups[0]["lr"] == 2e-4


@pytest.mark.parametrize("steps", [1, 300, 1000, 1500])
def test_the_grid_fills_a_run_of_any_length(steps, prior):
    """APFO's t falls from 999 and its last step is the one to the clean sample, however many steps there are."""
    plan = stage(Settings("a red mug", "APFO", steps=steps), prior)
    t = [plan.timesteps.bounds(step, steps)[0] for step in range(steps)]
    assert t[0] == 999 and t == sorted(t, reverse=True)
    assert plan.timesteps.points * plan.timesteps.views == steps and t[-1] == plan.timesteps.t[-2]


def test_pixels_start_where_latents_do(prior):
    latents, pixels = (stage(Settings("a red mug", "SDS", latent=latent, seed=5), prior).scene for latent in (True, False))
    assert list(latents.parameters()) == ["latents"] and list(pixels.parameters()) == ["pixels"]
    assert torch.equal(latents.latent(), randn((4, *prior.shape), seeded(5, -1)))
    assert torch.equal(pixels.render().rgb, latents.render().rgb)


@pytest.mark.parametrize("latent", [True, False])
def test_one_seed_is_one_run(latent, prior):
    def go(seed):
        plan = stage(Settings("a red mug", "VSD", steps=2, latent=latent, seed=seed), prior)
        list(run(plan, progress=False))
        return plan.scene.x.detach()

    first = go(0)
    assert torch.equal(first, go(0)) and not torch.equal(first, go(1))


def test_an_unknown_rule_is_an_error_that_lists_them():
    with pytest.raises(ValueError, match="VSD, VDM, APFO"):
        Settings("a red mug", "vsd")


@pytest.mark.slow
def test_sds_paints_what_it_is_asked_for(prior):
    """The judge, which rules never see, names kind and colour; the noise at the start is neither."""
    plan = stage(Settings("a blue car", "SDS", steps=60, pictures=2), prior)
    start = fidelity(plan.scene.render().rgb, "car", "blue")
    list(run(plan, progress=False))
    end = fidelity(plan.scene.render().rgb, "car", "blue")
    assert min(p.mean().item() for p in end) > 0.9 > 0.5 > max(p.mean().item() for p in start)
