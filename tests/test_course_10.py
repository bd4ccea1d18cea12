"""Notebook 10: both sides of its exercises, its claims as differences of paired runs, its bars, and the results it reads."""
import math

import pytest
import torch
from exercises import both_sides

from dreamlab.course import dreammapping as course
from dreamlab.course import rows, sheet
from dreamlab.course.vdm import decide

# notebook, the student's function, its check, and wrong answers: how the solution is spoiled -> words of the verdict
EXERCISES = [
    ("10_dreammapping", "half_width", course.check_half_width, {
        ("fov_deg.deg2rad() / 2", "fov_deg.deg2rad()"): "full angle",
        ("fov_deg.deg2rad() / 2", "fov_deg / 2"): "radians",
        ("return radius", "return 2 * radius"): "full width",
        ("torch.tan", "torch.sin"): "sine",
        ("radius * torch", "radius / torch"): "divides by the tangent",
        ("radius * torch", "torch"): "radius is missing",
        ("torch.tan", ""): "angle for its tangent",
    }),
    ("10_dreammapping", "rate", course.check_rate, {
        ("first * (last / first) ** share", "first + share * (last - first)"): "linear",
        ("(steps - 1)", "steps"): "steps - 1 ways",
        ("first * (last / first) ** share", "last * (first / last) ** share"): "swapped",
        ("** share", "** step"): "at every step",
        ("first * (last / first) ** share", "0.0 * share"): "above 0",
        ("first * (last / first) ** share", "last + (first - last) * (1 + torch.cos(torch.tensor(torch.pi * share))) / 2"):
            "cosine",
    }),
    ("10_dreammapping", "verdict", course.check_verdict, {
        ("(sign * d > 0).sum() >= 0.8 * len(d) and ", ""): "signs are not counted",
        (" and sign * d.mean() > error", ""): "spread is not asked",
        ("> error", "> 0"): "its size is not",
        (" / len(d) ** 0.5", ""): "standard deviation of one pair",
        ("(1, -1)", "(1,)"): "opposite is never found",
        ("0.8", "0.6"): "it takes four",
        ("0.8", "1.0"): "four will do",
        ("return sign", "return -sign"): "sign",
    }),
]

test_stub_is_asked_for, test_solution_is_right, test_typical_mistakes_are_named = both_sides(EXERCISES)

RIGHT = dict(sharpness_ratio=1.0, saturation_ratio=1.0, realism=1.0, kind=0.9, colour=0.9, fronts=1, psnr=20.0)
METHODS = ("SDS", "VSD", "ISM", "CSD", "VDM", "VDM+DCA", "VDM+DCA 100", "VDM+DCA 500", "VDM linear", "VDM noisy",
           "NeRF VDM+DCA", "NeRF VSD", "demo", "0 steps")
EVERY = {claim.text: claim for claims in course.CLAIMS.values() for claim in claims}


def runs(**changes) -> dict[str, dict]:
    """A row for every method, all alike but for ``changes``: measure -> {method: value}."""
    return {m: {k: changes.get(k, {}).get(m, v) for k, v in RIGHT.items()} for m in METHODS}


def test_every_claim_stands_once_and_is_a_number():
    assert len(EVERY) == sum(map(len, course.CLAIMS.values()))
    assert all(math.isfinite(claim.d(runs())) for claim in EVERY.values())


@pytest.mark.parametrize("text, measure, a, b", [  # the claim says that a's value is above b's
    ("VDM is sharper than SDS", "sharpness_ratio", "VDM", "SDS"),
    ("DCA takes saturation off VDM", "saturation_ratio", "VDM", "VDM+DCA"),
    ("VDM+DCA is more real than ISM (LucidDreamer)", "realism", "ISM", "VDM+DCA"),
    ("VDM+DCA is nearer to the truth than SDS: PSNR", "psnr", "VDM+DCA", "SDS"),
    ("VDM+DCA above SDS on the same points (GaussianDreamer): kind", "kind", "VDM+DCA", "SDS"),
    ("VDM+DCA more often has one front than SDS", "fronts", "SDS", "VDM+DCA"),
    ("500 is smoother than 300", "sharpness_ratio", "VDM+DCA", "VDM+DCA 500"),
    ("300's saturation is nearer to the truth's than 100's", "saturation_ratio", "VDM+DCA 100", "VDM+DCA"),
])
def test_a_claim_has_the_sign_it_says(text, measure, a, b):
    low = RIGHT[measure]
    assert EVERY[text].d(runs(**{measure: {a: 2 * low}})) > 0 > EVERY[text].d(runs(**{measure: {b: 2 * low}}))


def test_nearer_to_a_than_to_c_is_told_from_the_other_way_round():
    claim = EVERY["500 is nearer to SDS than to 300: sharpness"]
    assert claim.d(runs(sharpness_ratio={"SDS": 0.5, "VDM+DCA": 1.0, "VDM+DCA 500": 0.6})) > 0
    assert claim.d(runs(sharpness_ratio={"SDS": 0.5, "VDM+DCA": 1.0, "VDM+DCA 500": 0.9})) < 0


def test_a_measure_at_its_ceiling_tells_nothing():
    kind, fronts = (EVERY[t] for t in ("VDM+DCA above SDS on the same points (GaussianDreamer): kind",
                                       "VDM+DCA more often has one front than SDS"))
    high = [runs(kind={"SDS": 0.99, "VDM+DCA": 0.999})] * 5
    assert kind.decide(high).word == fronts.decide(high).word == "not testable here"
    lower = [runs(kind={"SDS": 0.5 - i / 100}, fronts={"SDS": 2}) for i in range(5)]
    assert kind.decide(lower).word == fronts.decide(lower).word == "holds"


def test_only_whole_groups_are_paired():
    table = [dict(method=m, prompt=p, seed=s, v=i) for i, (m, p, s) in enumerate(
        [("A", "x", 0), ("B", "x", 0), ("A", "x", 1), ("A", "y", 0), ("B", "y", 0)])]
    assert [r["B"]["v"] for r in course.paired(table, ["A", "B"])] == [1, 4]
    table[1]["error"] = "the gradient is not finite"
    assert [r["B"]["v"] for r in course.paired(table, ["A", "B"])] == [4]


def test_every_verdict_has_a_short_word():
    five = [1.0, 1.1, 0.9, 1.2, 0.8]
    words = [decide(d, telling).word for d, telling in
             ((five, True), ([-x for x in five], True), ([1.0, -1.0, 1.0, -1.0, 0.1], True), (five, False))]
    assert [course.SHORT[word] for word in words] == ["holds", "opposite", "unclear", "ceiling"]


def test_bars_are_met_at_their_value_and_not_beyond():
    at = [dict(iou=0.87, psnr=21.0, colour_right=True, fronts=1, seconds=120.0)]
    assert all(bar.met(at) for bar in course.BARS)
    beyond = [dict(iou=0.869, psnr=20.9, colour_right=False, fronts=2, seconds=121.0)]
    assert not any(bar.met(beyond) for bar in course.BARS)


@pytest.mark.parametrize("name, methods, prompts", [("dreammapping", 12, 5), ("demo", 2, 24)])
def test_the_stored_sweeps_are_what_the_notebook_reads(name, methods, prompts):
    """Each run once, every method for every prompt, measures in their ranges, and a picture for each."""
    table = rows(name)
    names = list(dict.fromkeys(row["method"] for row in table))
    assert len(names) == methods and len(table) == methods * prompts
    assert len(course.paired(table, names)) == prompts
    for row in table:
        assert all(0 <= row[k] <= 1 for k in ("iou", "kind", "colour", "saturation", "sharpness"))
        assert all(row[k] > 0 for k in ("saturation_ratio", "sharpness_ratio", "realism", "score", "psnr"))
    pictures = sheet(name)
    assert pictures.shape == (methods, prompts, 3, 64, 64, 3) and pictures.amin() >= 0 and pictures.amax() <= 1
    assert (pictures.flatten(3).std(-1) > 0.02).all() and not torch.equal(pictures[0], pictures[1])
