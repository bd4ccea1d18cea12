"""What is read off flat pictures: inside the object, whatever it stands before, against references that are exchangeable."""
import math

import pytest
import torch

from dreamlab.metrics.appearance import (
    background,
    clipped,
    eroded,
    inside,
    measure,
    realism,
    references,
    saturation,
    sharpness,
)
from dreamlab.metrics.calibrate import saturated
from dreamlab.toybox.dataset import FRONT_BIAS, biased_cameras
from dreamlab.toybox.objects import Toy, colour_rgb
from dreamlab.toybox.render import trace

GROUNDS = {"white": (1, 1, 1), "black": (0, 0, 0), "grey": (0.5, 0.5, 0.5), "red": (1, 0, 0), "green": (0, 0.8, 0.2),
           "blue": (0.1, 0.1, 1), "yellow": (1, 1, 0), "the car's own": colour_rgb("red")}


@pytest.fixture(scope="module")
def car():
    """Layers of 16 pictures such as the prior was trained on, from other cameras than the references'."""
    return trace(Toy("car"), biased_cameras(16, FRONT_BIAS, torch.Generator().manual_seed(77)), 64)


@pytest.fixture(scope="module")
def real():
    return references("a red car")


def before(car, ground, change=lambda rgb: rgb):
    """The car in front of a background; ``change`` is made to the car alone."""
    body = car.rgb(torch.tensor(colour_rgb("red")), torch.zeros(3)) / car.alpha.clamp_min(1e-6)
    return change(body) * car.alpha + (1 - car.alpha) * torch.tensor(ground, dtype=torch.float32)


def test_pixel_measures_of_known_pixels():
    known = torch.tensor([[1.0, 1, 1], [0.5, 0.5, 0.5], [1, 0, 0], [0.8, 0.4, 0.6], [0, 0, 0]]).view(1, 1, 5, 3)
    assert saturation(known).flatten().tolist() == pytest.approx([0, 0, 1, 0.5, 0])
    assert clipped(known).flatten().tolist() == pytest.approx([1, 0, 1, 0, 1])
    checks = (torch.arange(8)[:, None] + torch.arange(8)).remainder(2).float()[None, ..., None].expand(1, 8, 8, 3)
    assert sharpness(checks)[0, 1:-1, 1:-1].tolist() == [[1.0] * 6] * 6 and sharpness(0 * checks).max() == 0
    ramp = torch.arange(8.0).view(1, 1, 8, 1).expand(1, 8, 8, 3) / 8
    assert sharpness(ramp)[..., 1:-1].max() < 1e-6  # a slope is not sharp


def test_eroded_and_inside():
    mask = torch.zeros(1, 12, 12, dtype=torch.bool)
    mask[:, 2:10, 2:10] = True
    assert eroded(mask).sum() == 16 and eroded(mask)[0, 4:8, 4:8].all() and eroded(~mask).sum() == 0
    values = torch.arange(144.0).view(1, 12, 12)
    assert inside(values, mask) == values[mask].mean() and inside(values, mask & ~mask) == 0


def test_a_plain_background_is_found_and_a_handles_hole_with_it():
    image = torch.full((1, 32, 32, 3), 0.4)
    image[:, 8:24, 8:24] = torch.tensor([0.8, 0.1, 0.1])
    image[:, 12:18, 12:18] = 0.45  # enclosed, and near the background's colour: a part of the object
    image[:, 19:22, 19:22] = 0.41  # enclosed, and the background's colour
    found = background(image + 0.01 * (torch.arange(32) % 2)[:, None])
    assert found.sum() == 32 * 32 - 16 * 16 + 9 and found[0, 20, 20] and not found[0, 15, 15]


@pytest.mark.parametrize("ground", GROUNDS)
def test_a_car_reads_the_same_before_any_background(car, real, ground):
    found = measure(before(car, GROUNDS[ground]), "a red car", real)
    white = measure(before(car, (1, 1, 1)), "a red car", real)
    tolerance = 0.15 if ground == "black" else 0.03  # its wheels are black, and lost
    assert found["saturation_ratio"] == pytest.approx(white["saturation_ratio"], rel=tolerance)
    assert found["saturation_ratio"] == pytest.approx(1, abs=0.05 + tolerance)
    assert found["sharpness_ratio"] == pytest.approx(white["sharpness_ratio"], rel=max(tolerance, 0.1))


def test_saturation_has_its_factor_whatever_is_behind(car, real):
    for ground in ("white", "grey", "blue"):
        plain, pale = (measure(before(car, GROUNDS[ground], change), "a red car", real)["saturation_ratio"]
                       for change in (lambda rgb: rgb, lambda rgb: saturated(0.6, rgb)))
        assert pale / plain == pytest.approx(0.6, abs=0.02)


def test_nothing_has_no_surface(real):
    for colour in (0.0, 0.5, 1.0):
        found = measure(torch.full((2, 64, 64, 3), colour), "a red car", real)
        assert all(found[k] == 0 for k in ("saturation", "saturation_ratio", "clipped", "sharpness", "sharpness_ratio"))
        assert all(math.isfinite(v) for v in found.values()) and found["realism"] > 1.5


def test_not_finite_pictures_are_an_error(car, real):
    bad = before(car, (1, 1, 1))
    bad[3, 1, 2, 0] = float("nan")
    with pytest.raises(ValueError, match="the pictures to be measured have 1 of 196608 values that are not finite: give"):
        measure(bad, "a red car", real)


def test_real_pictures_are_as_real_as_each_other(car, real):
    """References are exchangeable: fresh ones read 1, either half against the other reads alike, and other things read more."""
    fresh = references("a red car", seed=5)
    assert realism(fresh, real).mean().item() == pytest.approx(1, abs=0.2)
    a, b = (realism(x, y).mean().item() for x, y in ((real[::2], real[1::2]), (real[1::2], real[::2])))
    assert a == pytest.approx(b, rel=0.3) and a > 0.8
    assert realism(real, real).max() < 1e-3  # the same pictures
    assert realism(references("a red house", 8), real).mean() > 1.5
    assert realism(references("a blue car", 8), real).mean() > 1.5
