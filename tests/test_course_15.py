"""Notebook 15: both sides of its exercises."""
import pytest
import torch
from exercises import both_sides

from dreamlab.cameras import ring
from dreamlab.course import costvolume
from dreamlab.mesh import lattice
from dreamlab.toybox.objects import Toy

VAR, LEAST = "return ((seen - mean)**2 * m).sum(0) / count", "return seen.masked_fill(~inside, 0).amin(0) - 0.5"
ALPHA = "return ((before - after) / before.clamp(min=1e-7)).clamp(min=0)"

# notebook, the student's function, its check, and wrong answers: how the solution is spoiled -> words of the verdict
EXERCISES = [
    ("15_cost_volume", "variance", costvolume.check_variance, {
        ("m = inside[:, None].float()", "m = torch.ones(len(seen), 1, seen.shape[2])"): "all views count here: leave out",
        (VAR, "return seen.var(0)"): "divides by one less",
        (VAR, "return ((seen - mean)**2 * m).sum(0) / len(seen)"): "all views: divide",
        (VAR, "return ((seen - mean)**2 * m).sum(0) / (count - 1).clamp(min=1)"):
            "one less than the count",
        ("(seen - mean)**2 * m).sum(0) / count", "(seen - mean)**2 * m).sum(0)"): "not divided",
        ("(seen - mean)**2", "seen**2"): "mean is not taken off",
        (VAR, "return mean"): "this is the mean: agreement",
        ("return ", "return -"): "wrong sign",
        (VAR, "return (((seen - mean)**2 * m).sum(0) / count)**0.5"): "standard deviation",
        ("(seen - mean)**2", "(seen - mean).abs()"): "absolute differences",
        ("(seen * m).sum(0) / count\n", "seen.mean(0)\n"): "the same views in both",
        (VAR, "return (seen * m).var(0, correction=0)"): "still counts as a view",
        (".clamp(min=1)", ""): "0 / 0",
        (VAR, "return (((seen - mean)**2 * m).sum(0) / count).mean(0)"): r"shape \(60,\)",
    }),
    ("15_cost_volume", "carve", costvolume.check_hull, {
        (" - 0.5", ""): "1/2 is missing",
        (LEAST, "return 0.5 - seen.masked_fill(~inside, 0).amin(0)"): "wrong sign",
        ("amin(0)", "amax(0)"): "largest",
        ("amin(0)", "mean(0)"): "one view that sees background",
        ("seen.masked_fill(~inside, 0).amin(0)", "seen.mean(0)"): "beside the pictures counts as well",
        (".masked_fill(~inside, 0)", ""): "not left out",
        ("~inside, 0", "~inside, 1"): "has no say",
        ("~inside", "inside"): "turned round",
        ("amin(0)", "prod(0)"): "product",
        (LEAST, "return (seen.masked_fill(~inside, 0).amin(0) > 0.5).float() - 0.5"):
            "yes or no",
        (LEAST, "return (seen.masked_fill(~inside, 0).amin(0) > 0.5).float()"):
            "yes or no",
        ("amin(0)", "sort(0).values[1]"): "forgives one view",
        ("amin(0)", "amin(1)"): r"shape \(5,\)",
    }),
    ("15_cost_volume", "opacity", costvolume.check_alpha, {
        ("before - after", "after - before"): "wrong sign: Phi falls",
        ("((before - after) / before.clamp(min=1e-7)).clamp(min=0)", "(after - before) / before.clamp(min=1e-7)"):
            "wrong sign, and below 0",
        (".clamp(min=0)", ""): "below 0 where f rises",
        (".clamp(min=0)", ".abs().clamp(0, 1)"): "size of the change",
        (".clamp(min=0)", ".abs()"): "size of the change",
        ("before.clamp(min=1e-7)).clamp(min=0)", "after.clamp(min=1e-7)).clamp(min=0)"): "far end",
        ("before.clamp(min=1e-7)).clamp(min=0)", "after.clamp(min=1e-7)).clamp(0, 1)"): "far end",
        (" / before.clamp(min=1e-7)", ""): "not divided",
        ("(s * f)", "f"): "s is missing",
        ("(s * f)", "(f / s)"): "divides by s",
        ("(s * f)", "(-s * f)"): "swapped",
        (".clamp(min=1e-7)", ""): "0 / 0 deep inside",
        (ALPHA,
         "a = ((before - after) / before.clamp(min=1e-7)).clamp(min=0)\n"
         "    return a * torch.cat([torch.ones_like(a[:, :1]), (1 - a).cumprod(1)[:, :-1]], 1)"): "weights already",
        (ALPHA,
         "d = s * phi * (1 - phi)\n    return 1 - torch.exp(-(d[:, :-1] + d[:, 1:]) / 2)"): "naive density",
        ("return ", "return phi  # "): r"shape \(12, 9\)",
    }),
]

test_stub_is_asked_for, test_solution_is_right, test_typical_mistakes_are_named = both_sides(EXERCISES)


def test_the_stored_benchmark_has_what_the_table_asks_for():
    summary = costvolume.benchmark()["summary"]
    for by in ("network", "hull"):
        for name in ("14", "8", "4 directions", "8, one wrong", "8, cameras off"):
            assert 0.5 < summary[f"{by}, {name}, all"]["iou"] < 1
    assert summary["hull, 14, all"]["iou"] > summary["network, 14, all"]["iou"]  # what the notebook says beside it


def test_the_true_surface_overlaps_the_truth():
    places = lattice(24, 0.9)
    mesh = costvolume.surface(Toy("duck").sdf(places.view(-1, 3)).view(places.shape[:3]), places)
    assert costvolume.overlap(mesh, "duck") > 0.93 > costvolume.overlap(mesh, "house")
    pictures = costvolume.shaded(mesh, ring(3), 16)
    assert pictures.shape == (3, 16, 16, 3) and torch.equal(costvolume.coloured(mesh, ring(3), 16) == 1, pictures == 1)


@pytest.mark.parametrize("z", [0.0, 0.3])
def test_a_slice_has_the_front_at_its_lower_edge(z):
    axis, places = costvolume.plane(z, 8)
    grid = places.view(8, 8, 3)
    assert (grid[-1, :, 0] > 0.6).all() and (grid[:, -1, 1] > 0.6).all() and (places[:, 2] == z).all()
    assert torch.equal(grid[:, 0, 0], axis)
