"""The loop: resume bit for bit after any stop, errors before work, nothing lost."""
import pytest
import torch

from dreamlab.cameras import Orbit
from dreamlab.noise import Schedule
from dreamlab.priors.base import Prior
from dreamlab.priors.critic import ExactCritic
from dreamlab.prompts import Prompt
from dreamlab.rules import APFO, ASD, LODS, SDS, VDM, VSD
from dreamlab.scenes.gaussians import Gaussians
from dreamlab.scenes.picture import Picture
from dreamlab.schedules import Annealed, Cosine, DreamTime, Grid, Uniform
from dreamlab.stage import Stage, latents, read, run


class Grey(Prior):
    """The exact prior of a single picture: mid-grey, or white for the positive condition."""

    def __init__(self, resolution=16):
        self.schedule, self.shape = Schedule.scaled_linear(), (3, resolution, resolution)

    @property
    def null(self):
        return torch.zeros(1, 1)

    def _eps(self, x_t, t, cond):
        return self.schedule.eps_from_x0(x_t, cond.view(-1, 1, 1, 1).expand_as(x_t), t)


def make(rule=None, steps=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    prior = Grey()
    rates = dict.fromkeys(("means", "quats", "scales", "opacities", "colors"), 1e-2)
    return Stage(Gaussians.ball(60, generator=g), prior, rule or VDM.for_prior(prior, guidance=2.0),
                 prompts=lambda cameras: Prompt(torch.ones(1, 1), prior.null), timesteps=Annealed(), rates=rates,
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
    assert read(file, tensors=False)[0] == 2  # what a SIGKILL here would leave
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
    with pytest.raises(ValueError, match=r"views must be a whole number in \[1, 4096\], got 0"):
        Stage(**{**vars(make()), "views": 0})
    with pytest.raises(ValueError, match="rates name"):
        Stage(**{**vars(make()), "rates": {"colours": 0.1}})


@pytest.mark.parametrize("timesteps, message", [
    (Uniform(20, 1000), r"t must lie in \[0, 999\], and step 0 draws it from \[20, 1000\]: change timesteps"),
    (Annealed(900, 1200, until=1.0), r"step 5 draws it from \[20, 1150\]"),
    (Grid(1500, 1000, 6), r"step 0 draws it from \[1500, 1500\]"),
    (DreamTime(t_max=1200, t_min=1100), r"step 0 draws it from")])
def test_timesteps_outside_the_schedule_are_named_before_any_work(timesteps, message):
    with pytest.raises(ValueError, match=message):
        Stage(**{**vars(make()), "timesteps": timesteps})
    free = Stage(**{**vars(make()), "timesteps": lambda step, steps, n, generator: torch.full((n,), 1000)})
    with pytest.raises(ValueError, match=r"t must lie in \[0, 999\], got 1000"):  # a plain function is met by the prior
        next(run(free, progress=False))


@pytest.mark.parametrize("rule", [VSD, APFO, ASD, LODS])
def test_a_critic_that_cannot_be_compared_is_named_before_any_work(rule):
    def stage(here, critic):
        made = make()
        made.prior = here
        return Stage(**{**vars(made), "rule": rule(critic), "timesteps": rule(critic).timesteps or made.timesteps})

    with pytest.raises(ValueError, match="shape"):
        stage(Grey(), ExactCritic(Grey(8)))
    here = Grey()
    assert stage(here, ExactCritic(here)).rule.critic.prior is here
    assert stage(here, ExactCritic(Grey())).prior is here  # the same samples and schedule: they can be compared


def test_a_rule_runs_at_its_own_timesteps():
    """APFO is weighted by the steps of its grid: other timesteps would go unseen."""
    made = make()
    rule = APFO(ExactCritic(made.prior))
    with pytest.raises(ValueError, match="APFO is weighted by the steps of Grid.*give the stage the rule's timesteps"):
        Stage(**{**vars(made), "rule": rule})
    assert Stage(**{**vars(made), "rule": rule, "timesteps": rule.grid}).timesteps is rule.timesteps


@pytest.mark.parametrize("rate", [-1.0, 0.0, float("nan"), float("inf"), (0.0, 1.0), (1.0, 0.0)])
def test_a_rate_that_moves_nothing_or_all_is_named(rate):
    with pytest.raises(ValueError, match="rates.means must be a number above 0"):
        Stage(**{**vars(make()), "rates": {"means": rate}})


def test_leaves_without_a_rate_stay_and_have_no_gradient():
    made = make(steps=2)
    made.rates = {"colors": 1e-2}
    before = {k: v.clone() for k, v in made.scene.state_dict().items()}
    grads = []
    for _ in run(made, progress=False):
        assert made.scene.parameters()["means"].grad is None
        grads.append(made.scene.parameters()["colors"].grad.norm().item())
    after = made.scene.state_dict()
    assert [k for k in before if not torch.equal(before[k], after[k])] == ["colors"]
    assert grads[1] < 1.5 * grads[0]  # that of one step, not the sum


def test_latent_pictures_are_distilled_without_a_render():
    """The leaf is what the rule sees; ``scene.render()`` decodes it."""
    stage = make(SDS(guidance=1.0), steps=80)
    decode = stage.prior.decode
    stage.scene, stage.rates, stage.look = Picture(torch.zeros(2, 3, 16, 16), decode), {"latents": 0.1}, latents
    steps = list(run(stage, progress=False))
    assert all(step.render is None for step in steps)
    assert (stage.scene.x.detach() - 1).abs().max() < 0.1 and stage.scene.render().rgb.shape == (2, 16, 16, 3)


def test_a_gradient_that_is_not_finite_stops_with_the_last_good_state():
    stage = make(SDS(guidance=1.0))
    stage.regularise = lambda scene, render: render.rgb.sum() * float("nan")
    before = state(stage)
    with pytest.raises(FloatingPointError, match="not finite"):
        list(run(stage, progress=False))
    assert torch.equal(state(stage), before)


def test_a_run_switches_gradients_on_by_itself():
    with torch.no_grad():
        with_none, = run(make(steps=1), progress=False)
    with_some, = run(make(steps=1), progress=False)
    assert with_none.grad_norm == with_some.grad_norm > 0
