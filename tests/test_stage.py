"""The loop: resume bit for bit after any stop, errors before work, nothing lost."""
import pytest
import torch
from safetensors import safe_open

from dreamlab.cameras import Orbit
from dreamlab.noise import Schedule
from dreamlab.priors.base import Prior
from dreamlab.prompts import Prompt
from dreamlab.rules.sds import SDS
from dreamlab.rules.vdm import VDM
from dreamlab.scenes.gaussians import Gaussians
from dreamlab.schedules import Annealed, Cosine
from dreamlab.stage import Stage, run


class Grey(Prior):
    """The exact prior of a single picture: mid-grey, or white for the positive condition."""

    def __init__(self, resolution=16):
        self.schedule, self.shape = Schedule.scaled_linear(), (3, resolution, resolution)

    def _eps(self, x_t, t, cond):
        return self.schedule.eps_from_x0(x_t, cond.view(-1, 1, 1, 1).expand_as(x_t), t)


def make(rule=None, steps=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    prior = Grey()
    rates = dict.fromkeys(("means", "quats", "scales", "opacities", "colors"), 1e-2)
    return Stage(Gaussians.ball(60, generator=g), prior, rule or VDM.for_shape(prior.shape, guidance=2.0),
                 prompts=lambda cameras: Prompt(torch.ones(1, 1), torch.zeros(1, 1)), timesteps=Annealed(), rates=rates,
                 decay=Cosine(warmup=2), cameras=Orbit(), steps=steps, views=2, resolution=16, seed=seed)


def state(stage):
    return torch.cat([p.detach().flatten() for p in stage.scene.parameters().values()])


def test_distillation_reaches_the_prior():
    """White is what the prior wants: with random backgrounds the views must become white everywhere they are covered."""
    stage = make(SDS(guidance=1.0), steps=120)
    stage.rates = {"colors": 0.3}
    start = stage.scene.colors.detach().mean()
    norms = [step.grad_norm for step in run(stage, progress=False)]
    assert stage.scene.colors.mean() > 0.93 > start and len(norms) == 120


def test_flipped_residual_moves_away():
    class Wrong(SDS):
        def __call__(self, *args, **kwargs):
            residual = super().__call__(*args, **kwargs)
            residual.value = -residual.value
            return residual

    stage = make(Wrong(guidance=1.0), steps=60)
    stage.rates = {"colors": 0.3}
    list(run(stage, progress=False))
    assert stage.scene.colors.mean() < 0.2


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_resume_is_bit_for_bit(tmp_path, stop):
    whole = make()
    list(run(whole, progress=False))
    file = tmp_path / "checkpoint.safetensors"
    first = make()
    for step in run(first, file, every=2, progress=False):
        if step.step + 1 == stop:
            break  # as Ctrl-C does: the generator closes and saves
    second = make()
    rest = list(run(second, file, every=2, progress=False))
    assert [s.step for s in rest] == list(range(stop, 6))
    assert torch.equal(state(second), state(whole)) and not torch.equal(state(first), state(whole))


def test_a_kill_between_checkpoints_repeats_the_lost_steps(tmp_path):
    whole, first, second = make(), make(), make()
    list(run(whole, progress=False))
    file = tmp_path / "checkpoint.safetensors"
    loop = run(first, file, every=2, progress=False)
    for _ in range(3):
        next(loop)
    with safe_open(file, "pt") as held:
        assert held.metadata()["done"] == "2"  # what a SIGKILL here would leave
    list(run(second, file, every=100, progress=False))
    assert torch.equal(state(second), state(whole))


def test_another_seed_is_another_run():
    a, b = make(seed=0), make(seed=1)
    list(run(a, progress=False)), list(run(b, progress=False))
    assert not torch.equal(state(a), state(b))


def test_checkpoint_of_other_settings_is_refused(tmp_path):
    list(run(make(), tmp_path / "c", tag="one", progress=False))
    with pytest.raises(ValueError, match="other settings"):
        list(run(make(), tmp_path / "c", tag="two", progress=False))


def test_bad_settings_are_named_before_any_work():
    with pytest.raises(ValueError, match="views must be at least 1, got 0"):
        Stage(**{**vars(make()), "views": 0})
    with pytest.raises(ValueError, match="rates name"):
        Stage(**{**vars(make()), "rates": {"colours": 0.1}})


def test_a_gradient_that_is_not_finite_stops_with_the_last_good_state():
    stage = make(SDS(guidance=1.0))
    stage.regularise = lambda render: render.rgb.sum() * float("nan")
    before = state(stage)
    with pytest.raises(FloatingPointError, match="not finite"):
        list(run(stage, progress=False))
    assert torch.equal(state(stage), before)
