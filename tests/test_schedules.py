"""Timesteps stay in their range and follow their generator; weights and lambda_t have the papers' numbers."""
import pytest
import torch

from dreamlab.noise import Schedule
from dreamlab.schedules import (
    Annealed,
    Cosine,
    Exponential,
    Uniform,
    balanced,
    dca_lambda,
    noise_to_signal,
    one,
    sigma2,
)

SCHEDULE = Schedule.scaled_linear()


def test_uniform_reaches_both_ends_and_no_further(generator):
    t = Uniform(3, 7)(0, 10, 500, generator)
    assert t.shape == (500,) and t.dtype == torch.long and sorted(set(t.tolist())) == [3, 4, 5, 6, 7]


def test_annealed_is_luciddreamers_at_5000_steps():
    schedule = Annealed()  # 500 + 480 (1 - min(step / 1500, 1))
    assert [schedule.t_max(step, 5000) for step in (0, 750, 1500, 4999)] == [980, 740, 500, 500]


def test_annealed_draws_stay_below_the_falling_maximum(generator):
    schedule = Annealed(900, 100, 50, until=0.8)
    for step in range(0, 100, 9):
        t = schedule(step, 100, 200, generator)
        assert 50 <= t.min() and t.max() <= schedule.t_max(step, 100)
    assert schedule.t_max(80, 100) == 100


def test_shared_draws_one_t_for_the_batch(generator):
    draws = [Uniform(0, 999, shared=True)(0, 1, 4, generator).tolist() for _ in range(5)]
    assert all(len(d) == 4 and len(set(d)) == 1 for d in draws) and len({d[0] for d in draws}) > 1


@pytest.mark.parametrize("schedule", [Uniform(), Annealed()])
def test_generators_reproduce(schedule):
    a, b = (schedule(3, 10, 8, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(a, b)


@pytest.mark.parametrize("bad, message", [({"t_min": 600}, r"\[0, 500\], got 600"), ({"t_min": -1}, "got -1"),
                                          ({"until": 0.0}, "got 0"), ({"until": 1500.0}, "got 1500")])
def test_impossible_ranges_are_errors(bad, message):
    with pytest.raises(ValueError, match=message):
        Annealed(**bad)


def test_weights():
    t = torch.tensor([0, 300, 999])
    one_minus_abar = torch.tensor([0.00085, 0.4095, 0.9953])
    close = {"atol": 1e-4, "rtol": 1e-3}
    torch.testing.assert_close(one(SCHEDULE, t), torch.ones(3))
    torch.testing.assert_close(sigma2(SCHEDULE, t), one_minus_abar, **close)
    torch.testing.assert_close(balanced(SCHEDULE, t) ** 2, one_minus_abar * (1 - one_minus_abar), **close)
    torch.testing.assert_close(noise_to_signal(SCHEDULE, t), torch.tensor([0.0292, 0.833, 14.615]), **close)


def test_dca_on_both_sides_of_the_cutoff():
    lam = dca_lambda(SCHEDULE, torch.tensor([0, 20, 299, 300, 301, 999]))
    torch.testing.assert_close(lam, torch.tensor([0.00085, 0.0187, 0.4078, 0.4095, 1.0, 1.0]), atol=1e-3, rtol=0)
    assert lam[3] == 1 - SCHEDULE.alphas_cumprod[300] and lam[4] == 1
    assert dca_lambda(SCHEDULE, torch.tensor([300]), cutoff=100) == 1


@pytest.mark.parametrize("curve", [Cosine, Exponential])
def test_curves_warm_up_then_fall_to_the_final_factor(curve):
    factors = [curve(warmup=10, final=0.2)(step, 100) for step in range(100)]
    assert factors[0] == pytest.approx(0.1) and factors[99] == pytest.approx(0.2)
    assert factors[:10] == sorted(factors[:10]) and factors[10:] == sorted(factors[10:], reverse=True)
    assert curve(warmup=0, final=1.0)(7, 20) == 1
