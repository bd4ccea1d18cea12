"""The algebra of the forward process, against diffusers' DDIMScheduler and against itself."""
import pytest
import torch
from diffusers import DDIMScheduler

from dreamlab.noise import Schedule, ddim_sample, ddim_timesteps, per_sample, randn

SCHEDULE = Schedule.scaled_linear()


def scheduler(prediction_type: str, offset: int = 0, to_one: bool = True) -> DDIMScheduler:
    return DDIMScheduler(1000, 0.00085, 0.012, "scaled_linear", clip_sample=False, steps_offset=offset,
                         prediction_type=prediction_type, set_alpha_to_one=to_one)


def batch(generator):
    t = torch.tensor([0, 20, 300, 999])
    return randn((4, 3, 5, 5), generator), randn((4, 3, 5, 5), generator), t


def test_the_schedule_is_stable_diffusions():
    torch.testing.assert_close(SCHEDULE.alphas_cumprod, scheduler("epsilon").alphas_cumprod, atol=1e-7, rtol=0)
    numbers = {0: 0.00085, 20: 0.0187, 300: 0.4095, 999: 0.9953}
    for t, expected in numbers.items():
        assert float(1 - SCHEDULE.alphas_cumprod[t]) == pytest.approx(expected, abs=6e-5)


def test_add_noise_is_diffusers(generator):
    x, eps, t = batch(generator)
    theirs = scheduler("epsilon").add_noise(x, eps, t)
    torch.testing.assert_close(SCHEDULE.add_noise(x, eps, t), theirs, atol=1e-5, rtol=0)


def test_velocity_is_diffusers(generator):
    x, eps, t = batch(generator)
    theirs = scheduler("v_prediction").get_velocity(x, eps, t)
    torch.testing.assert_close(SCHEDULE.v(x, eps, t), theirs, atol=1e-5, rtol=0)


def test_conversions_invert_each_other(generator):
    x, eps, t = (v.double() if v.is_floating_point() else v for v in batch(generator))
    x_t = SCHEDULE.add_noise(x, eps, t)
    close = {"atol": 1e-5, "rtol": 0}
    torch.testing.assert_close(SCHEDULE.x0(x_t, eps, t), x, **close)
    torch.testing.assert_close(SCHEDULE.eps_from_x0(x_t, x, t), eps, **close)
    torch.testing.assert_close(SCHEDULE.eps_from_v(x_t, SCHEDULE.v(x, eps, t), t), eps, **close)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("to_one", [True, False])
@pytest.mark.parametrize("steps", [4, 25, 1000])
def test_ddim_is_diffusers(generator, prediction_type, offset, to_one, steps):
    if offset and steps == 1000:
        pytest.skip("diffusers itself asks for t = 1000 then")
    theirs = scheduler(prediction_type, offset, to_one)
    schedule = Schedule(SCHEDULE.alphas_cumprod, to_one)
    theirs.set_timesteps(steps)
    assert ddim_timesteps(steps, offset=offset).tolist() == theirs.timesteps.tolist()
    if prediction_type == "epsilon":  # some smooth network of x_t and t

        def network(x_t, t):
            return torch.sin(x_t + per_sample(t / 1000, x_t))

        eps = network
    else:

        def network(x_t, t):
            return torch.cos(x_t - per_sample(t / 1000, x_t)) * 0.3

        def eps(x_t, t):
            return SCHEDULE.eps_from_v(x_t, network(x_t, t), t)

    x = y = randn((2, 4), generator)
    path, seen = [], []
    for t in theirs.timesteps:
        path.append(y)
        y = theirs.step(network(y, t.expand(2)), t, y).prev_sample
    ours = ddim_sample(lambda x_t, t: seen.append(x_t) or eps(x_t, t), x, schedule.to("cpu"), steps, offset)
    torch.testing.assert_close(torch.stack([*seen, ours]), torch.stack([*path, y]), atol=3e-5, rtol=0)  # step by step


def test_a_ddim_step_with_the_true_noise_lands_on_the_path(generator):
    x, eps, t = batch(generator)
    s = torch.tensor([10, -1, 700, 500])  # up, clean, up, down
    landed = SCHEDULE.ddim_step(SCHEDULE.add_noise(x, eps, t), eps, t, s)
    expected = SCHEDULE.add_noise(x, eps, s.clamp(min=0))
    expected[1] = x[1]
    torch.testing.assert_close(landed, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("t", [-1, 1000])
def test_t_outside_the_schedule_is_an_error(t):
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"t must lie in \[0, 999\]"):
        SCHEDULE.add_noise(x, x, torch.tensor([5, t]))


@pytest.mark.parametrize("steps", [0, 1001])
def test_too_few_or_too_many_ddim_steps_are_an_error(steps):
    with pytest.raises(ValueError, match=r"steps must lie in \[1, 1000\]"):
        ddim_sample(lambda x, t: x, torch.zeros(1, 2), SCHEDULE, steps)


def test_noise_comes_from_its_generator():
    a, b, c = (randn((3, 2), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)
