"""Timesteps stay in their range and follow their generator; weights and lambda_t have the papers' numbers."""
import pytest
import torch

from dreamlab.noise import Schedule, ddim_follow, ddim_sample, ddim_timesteps, randn
from dreamlab.schedules import (
    Annealed,
    Cosine,
    DreamTime,
    Exponential,
    Grid,
    Uniform,
    alpha_sigma2,
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


def test_annealed_holds_then_ramps():
    schedule = Annealed(980, 500, since=0.2, until=0.6)
    assert [schedule.t_max(step, 100) for step in (0, 20, 30, 40, 60, 99)] == [980, 980, 860, 740, 500, 500]


def test_annealed_jumps_where_since_is_until():
    """ProlificDreamer's in threestudio: 980 to 500 at once, at step 5000 of 25000."""
    schedule = Annealed(since=0.2, until=0.2)
    assert [schedule.t_max(step, 25000) for step in (0, 4999, 5000, 24999)] == [980, 980, 500, 500]
    assert schedule.bounds(0, 25000) == (20, 980) and schedule.bounds(5000, 25000) == (20, 500)


def test_annealed_may_rise():
    assert [Annealed(100, 500, until=1.0).t_max(step, 4) for step in range(5)] == [100, 200, 300, 400, 500]


@pytest.mark.parametrize("schedule", [Uniform(), Annealed(), DreamTime(), Grid()])
def test_generators_reproduce(schedule):
    a, b = (schedule(3, 10, 8, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(a, b)


@pytest.mark.parametrize("bad, message", [({"t_min": 600}, r"\[0, 500\], got 600"), ({"t_min": -1}, "got -1"),
                                          ({"until": 0.0}, "got 0"), ({"until": 1500.0}, "got 1500"),
                                          ({"since": 0.5}, r"\[0, until = 0.3\], got 0.5"), ({"since": -0.1}, "got -0.1")])
def test_impossible_ranges_are_errors(bad, message):
    with pytest.raises(ValueError, match=message):
        Annealed(**bad)


# DreamTime.


def test_dreamtime_falls_from_end_to_end_and_lingers_where_its_weight_is_large():
    schedule, steps = DreamTime(), 1000
    t = torch.tensor([schedule.t(step, steps) for step in range(steps)])
    assert t[0] == 980 and t[-1] < 300 and (t.diff() <= 0).all() and t.min() >= 20
    plateau, below = ((500 <= t) & (t <= 800)).float().mean(), (t < 300).float().mean()
    assert plateau > 0.45 and below < 0.05  # uniform in t they would have 0.31 and 0.29
    density = schedule.density()
    assert density[500 - 20] == 1 == density[800 - 20] and density[0] < 1e-4
    assert float(density[980 - 20]) == pytest.approx(0.8353, abs=1e-3)  # exp(-(180 / 300)² / 2)


def test_dreamtime_is_its_equation():
    """The t whose weight above is nearest i / N of the whole, by brute force."""
    schedule = DreamTime(m1=700.0, m2=400.0, s1=200.0, s2=50.0, t_min=100, t_max=900)
    w = schedule.density()
    for step in (0, 3, 25, 49):
        share = [float(w[k:].sum() / w.sum()) for k in range(len(w))]
        assert schedule.t(step, 50) == 100 + min(range(len(w)), key=lambda k: abs(share[k] - step / 50))  # noqa: B023


def test_dreamtime_gives_all_views_one_t(generator):
    t = DreamTime()(4, 10, 6, generator)
    assert t.shape == (6,) and t.dtype == torch.long and set(t.tolist()) == {DreamTime().t(4, 10)}
    assert DreamTime().bounds(4, 10) == (int(t[0]), int(t[0]))


@pytest.mark.parametrize("bad, message", [
    ({"t_min": 900, "t_max": 800}, r"t_min must lie in \[0, t_max = 800\], got 900"), ({"t_min": -1}, "got -1"),
    ({"m1": 400.0}, "m2 <= m1, got m2 500 and m1 400"), ({"s2": 0.0}, "s2 must .*got 0"), ({"s1": -1.0}, "s1 .*got -1")])
def test_impossible_priorities_are_errors(bad, message):
    with pytest.raises(ValueError, match=message):
        DreamTime(**bad)


# APFO's grid.


def test_grid_is_dreamflows():
    for grid, gap in ((Grid(999, 199, 800, 5), 1), (Grid(499, 99, 400, 5), 1), (Grid(299, -1, 30, 10), 10)):
        assert grid.t.tolist() == list(range(grid.start, grid.end - 1, -gap)) and len(grid.t) == grid.points + 1


def test_grid_keeps_each_t_for_its_views_and_then_the_last(generator):
    grid = Grid(99, -1, 4, views=3)
    assert grid.t.tolist() == [99, 74, 49, 24, -1]
    t = [grid(step, 12, 2, generator).tolist() for step in range(14)]
    assert t == [[k, k] for k in (99, 74, 49, 24) for _ in range(3)] + [[24, 24]] * 2
    assert grid.bounds(5, 12) == (74, 74) and grid(0, 12, 2, generator).dtype == torch.long


def test_the_default_grid_is_ddims_of_200():
    """Spacing 5 from 999; diffusers' "leading" one from 995, with no offset."""
    assert (Grid().t[:-1] - 4).tolist() == ddim_timesteps(200).tolist()


def test_the_grids_weight_is_the_step_in_sigma():
    grid = Grid(299, -1, 30)
    sigma = noise_to_signal(SCHEDULE, grid.t[:-1])
    expected = (sigma - torch.cat([sigma[1:], torch.zeros(1)])).abs()
    torch.testing.assert_close(grid.weight(SCHEDULE, grid.t[:-1]), expected)
    assert float(grid.weight(SCHEDULE, grid.t[:-1]).sum()) == pytest.approx(float(sigma[0]), rel=1e-5)
    coarse = Grid(999, 199, 80)
    t = torch.tensor([999, 995, 990, 200])  # between two of the grid: down to the next one below
    below = torch.tensor([989, 989, 989, 199])
    torch.testing.assert_close(coarse.weight(SCHEDULE, t), noise_to_signal(SCHEDULE, t) - noise_to_signal(SCHEDULE, below))


@pytest.mark.parametrize("bad, message", [
    ({"start": 100, "end": 100}, "falls from start to end >= -1, got 100 to 100"), ({"end": -2}, "end must be .*got -2"),
    ({"start": 99, "end": -1, "points": 101}, r"points must lie in \[1, 100\], got 101"), ({"points": 0}, "got 0"),
    ({"views": 0}, "views must be .*got 0")])
def test_impossible_grids_are_errors(bad, message):
    with pytest.raises(ValueError, match=message):
        Grid(**bad)


# Paths.


def test_ddim_follow_keeps_what_does_not_move_and_ends_clean(generator):
    x = randn((3, 2), generator)
    times = [torch.tensor(k) for k in ([0, 0, 0], [0, 100, 200], [0, 100, 400])]
    seen = []

    def eps(x_t, t):
        seen.append(t.tolist())
        return torch.ones_like(x_t)

    y = ddim_follow(eps, x, SCHEDULE, times)
    assert seen == [[0, 0, 0], [0, 100, 200]]
    torch.testing.assert_close(y[0], x[0])
    for i, (t, twice) in enumerate([(0, 0), (100, 100), (200, 400)]):  # with one eps throughout, a path has one clean end
        path = ddim_follow(eps, x[i:i + 1], SCHEDULE, [torch.tensor([0]), torch.tensor([max(t, twice)])])
        torch.testing.assert_close(y[i:i + 1], path, atol=1e-5, rtol=1e-4)
    clean = ddim_follow(eps, y, SCHEDULE, [times[-1], torch.full((3,), -1)])
    torch.testing.assert_close(clean, SCHEDULE.x0(x, torch.ones_like(x), times[0]), atol=1e-5, rtol=1e-4)
    assert torch.equal(ddim_follow(eps, x, SCHEDULE, times[:1]), x)


def test_ddim_sample_follows_the_timesteps(generator):
    x, seen = randn((2, 2), generator), []
    ddim_sample(lambda x_t, t: seen.append(int(t[0])) or x_t, x, SCHEDULE, steps=4, offset=1)
    assert seen == [751, 501, 251, 1]


def test_weights():
    t = torch.tensor([0, 300, 999])
    one_minus_abar = torch.tensor([0.00085, 0.4095, 0.9953])
    close = {"atol": 1e-4, "rtol": 1e-3}
    torch.testing.assert_close(one(SCHEDULE, t), torch.ones(3))
    torch.testing.assert_close(sigma2(SCHEDULE, t), one_minus_abar, **close)
    torch.testing.assert_close(balanced(SCHEDULE, t) ** 2, one_minus_abar * (1 - one_minus_abar), **close)
    torch.testing.assert_close(alpha_sigma2(SCHEDULE, t) ** 2, one_minus_abar**2 * (1 - one_minus_abar), **close)
    torch.testing.assert_close(noise_to_signal(SCHEDULE, t), torch.tensor([0.0292, 0.833, 14.615]), **close)


def test_fantasias_weight_is_greatest_where_a_third_is_signal():
    """d/da sqrt(a) (1 - a) = 0 at a = 1/3, where it is 2 / sqrt(27); it goes to 0 at both ends."""
    w = alpha_sigma2(SCHEDULE, torch.arange(1000))
    torch.testing.assert_close(w.max(), torch.tensor(2 / 27**0.5), atol=1e-5, rtol=0)
    assert abs(SCHEDULE.alphas_cumprod[w.argmax()] - 1 / 3) < 1e-3 and w[0] < 1e-3 and w[-1] < 0.1


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
