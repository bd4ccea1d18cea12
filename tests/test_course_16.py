"""Notebook 16: both sides of its exercises, the signs of its claims, and the table that they are decided from."""
import math

import matplotlib.pyplot as plt
import pytest
import torch
from exercises import both_sides

from dreamlab.course import geodream as course
from dreamlab.viewpoints import LISTS

SHARE, LINE = "share = (step - 3500) / 20_000", "first + (last - first) * share"
NEAR = "return torch.stack([(azimuth_deg + 45 * either[:, 0]) % 360, elevation_deg + 30 * either[:, 1]], 1)"
POSE = "return torch.stack([-up, turn.sin(), turn.cos(), cameras.radius - seen.radius], -1)"

# notebook, the student's function, its check, and wrong answers: how the solution is spoiled -> words of the verdict
EXERCISES = [
    ("16_geodream", "factor", course.check_factor, {
        (SHARE, "share = (step - 3500) / 16_500"): "end at 23,500",
        (SHARE, "share = step / 20_000"): "counts the line from iteration 0",
        (SHARE, "share = step / 23_500"): "this one begins at 0",
        (">= 3500", "> 3500"): "3500 itself",
        (LINE + ", torch.ones_like(step)", "first + (last - first) * share, first * torch.ones_like(step)"): "and not first",
        ("step >= 3500", "step >= 0"): "goes on to the left",
        (LINE, "last + (first - last) * share"): "swapped",
        (LINE, "first * (last / first) ** share"): "logarithm",
        (LINE, "share"): "share of the line",
        ("return ", "return step[:, None] + 0 * "): "shape",
    }),
    ("16_geodream", "near", course.check_near, {
        (") % 360", ")"): "remainder",
        ("either = 2 * u - 1", "either = u - 0.5"): "either way",
        ("either = 2 * u - 1", "either = 4 * u - 2"): "half of that either way",
        ("either = 2 * u - 1", "either = 2 * u"): "one way only, to the left",
        ("either = 2 * u - 1", "either = u"): "half as wide",
        (NEAR, NEAR.replace("45", "x").replace("30", "45").replace("x", "30")): "45 is the azimuth's",
        ("elevation_deg + 30", "30"): "elevation is relative",
        (NEAR, NEAR.replace("return ", "return torch.flip(") + ", [1])"): "azimuth first",
    }),
    ("16_geodream", "pose", course.check_pose, {
        ("[-up, ", "[up, "): "up is negative",
        (POSE, POSE.replace("-up", "-up.rad2deg()").replace("turn.", "turn.rad2deg().")): "radians are wanted",
        ("[-up, ", "[-up.rad2deg(), "): "in radians too",
        ("[-up, turn.sin()", "[-up, -turn.sin()"): "other way",
        (POSE, POSE.replace("-up, turn", "up, -turn").replace("cameras.radius - seen.radius", "seen.radius - cameras.radius")):
            "turned round",
        ("turn.sin(), turn.cos()", "turn.cos(), turn.sin()"): "sine comes first",
        ("cameras.azimuth_deg - seen.azimuth_deg", "cameras.azimuth_deg"): "azimuth itself",
        ("cameras.elevation_deg - seen.elevation_deg", "cameras.elevation_deg"): "elevation is relative",
        ("cameras.radius - seen.radius", "cameras.radius / seen.radius"): "not a ratio",
        ("cameras.radius - seen.radius", "cameras.radius"): "how much farther",
    }),
]

test_stub_is_asked_for, test_solution_is_right, test_typical_mistakes_are_named = both_sides(EXERCISES)

EVERY = {claim.text: claim for claims in course.CLAIMS.values() for claim in claims}
ROW = dict(iou=0.9, psnr=20.0, sharpness_ratio=1.0, saturation_ratio=1.0, realism=1.5, fronts=1)
NAMES = ("full", "no prior", "fixed prior", "constant rate", "texture anew", "SDS", "half resolution", "Perp-Neg", "sampled",
         "not sampled", "picture", "picture, sampled", "one wrong", "true views")


def made_up(**changes) -> dict[str, dict]:
    """A row for every part of every arm, all alike but for ``changes``: measure -> {"arm, part": value}."""
    parts = [f"{arm}, {part}" for arm in NAMES for part in ("start", "neus")] + ["full, mesh", "full, texture"]
    return {part: {k: changes.get(k, {}).get(part, v) for k, v in ROW.items()} for part in parts}


def test_every_claim_stands_once_and_is_a_number():
    assert len(EVERY) == sum(map(len, course.CLAIMS.values()))
    assert all(math.isfinite(claim.d(made_up())) for claim in EVERY.values())


@pytest.mark.parametrize("text, measure, a, b", [  # the claim says that a's value is above b's
    ("with the prior the shape is nearer: IoU", "iou", "full, neus", "no prior, neus"),
    ("with the prior the front count is nearer to 1", "fronts", "no prior, neus", "full, neus"),
    ("refinement improves on its start: PSNR", "psnr", "full, neus", "full, start"),
    ("VSD is more real", "realism", "SDS, neus", "full, neus"),
    ("SDS is more saturated", "saturation_ratio", "SDS, neus", "full, neus"),
    ("the mesh's picture is sharper", "sharpness_ratio", "full, texture", "full, neus"),
    ("without views made of the back the volume is nearer: IoU of the start", "iou", "sampled, start", "not sampled, start"),
    ("views of one joint prior (MVDream) end nearer than turned ones: IoU", "iou", "full, neus", "picture, neus"),
])
def test_a_claim_has_the_sign_it_says(text, measure, a, b):
    low = ROW[measure]
    assert EVERY[text].d(made_up(**{measure: {a: 2 * low}})) > 0 > EVERY[text].d(made_up(**{measure: {b: 2 * low}}))


def test_a_margin_is_part_of_a_claim():
    collapse, wrong = (EVERY[text] for text in ("at a constant rate the shape collapses: IoU more than 0.1 below its start",
                                                "one wrong view of eight costs at most .05 of IoU"))
    assert collapse.d(made_up(iou={"constant rate, neus": 0.81})) < 0 < collapse.d(made_up(iou={"constant rate, neus": 0.79}))
    assert wrong.d(made_up(iou={"one wrong, neus": 0.84})) < 0 < wrong.d(made_up(iou={"one wrong, neus": 0.86}))


def test_fronts_tell_nothing_where_all_are_right():
    claim = EVERY["with the prior the front count is nearer to 1"]
    assert claim.decide([made_up()] * 5).word == "not testable here"
    assert claim.decide([made_up(fronts={"no prior, neus": n}) for n in (0, 0, 2, 2, 0)]).word == "holds"


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """A small made-up table: the method for eight kinds and two seeds, two variants for the five of the ablations, and more
    seeds of one prompt."""
    lines = ["arm,kind,colour,seed,part,iou,psnr,fronts,sharpness_ratio"]
    for i, kind in enumerate(("mug", "duck", "snowman", "car", "robot", "bear", "house", "owl")):
        for seed in (0, 1, 2, 3) if kind == "duck" else (0, 1):
            for j, part in enumerate(("start", "hull", "neus", "texture")):
                rest = ",," if part == "hull" else f"{20 + j + 0.1 * i},1,1.0"
                lines.append(f"full,{kind},red,{seed},{part},{0.9 + 0.01 * j + 0.001 * seed},{rest}")
            if kind in course.PAIRED and (seed == 0 or kind == "duck"):
                lines += [f"no prior,{kind},red,{seed},{part},{0.7 + 0.02 * seed},{15 + seed + 0.1 * i},0,1.0"
                          for part in ("start", "neus")]
    (tmp_path / "geodream.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(course, "DATA", tmp_path)


def test_claims_are_decided_from_a_table(stored):
    shape, picture = EVERY["with the prior the shape is nearer: IoU"], EVERY["refinement improves on its start: PSNR"]
    found = course.pairs(shape)
    assert [next(iter(runs.values()))["kind"] for runs in found] == [k for k in course.PAIRED]  # seed 0, in the table's order
    assert shape.decide(found).word == "holds" and EVERY["with the prior the front count is nearer to 1"].decide(found).n == 5
    assert len(course.pairs(picture)) == 16 and picture.decide(course.pairs(picture)).mean == pytest.approx(2.0)
    assert course.pairs(EVERY["VSD is more real"]) == []
    assert len(course.runs(("full", "no prior"))) == 8 and len(course.runs()) == 18


def test_spread_is_over_the_seeds_of_one_prompt(stored):
    rows = [row for row in course.table() if row["kind"] == "duck"]
    assert course.spread(rows, "no prior", "psnr") == pytest.approx(torch.arange(4.0).std().item())
    assert course.spread(rows, "full") < course.spread(rows, "no prior")


def test_the_globe_shows_every_view_and_whose_it_is():
    plt.switch_backend("agg")
    for points in LISTS.values():
        views = points(torch.Generator().manual_seed(0))
        ax = plt.figure().add_subplot(projection="polar")
        course.globe(ax, views, "title")
        marks = [line for line in ax.lines if line.get_marker() in ("s", "o")]
        assert [line.get_marker() == "s" for line in marks] == [view.of == i for i, view in enumerate(views)]
        assert all(line.get_color() == course.HUES[view.of % 4] for line, view in zip(marks, views, strict=True))
    plt.close("all")


def test_stored_rows_carry_todays_tags():
    """What is stored was run with the settings that the method has now, and has all runs of a variant or none."""
    from benchmarks.dreamflow import PROMPTS
    from benchmarks.geodream import ARMS
    from dreamlab.methods import METHODS
    from dreamlab.toybox.captions import parse

    prompts = {parse(prompt): prompt for prompt in PROMPTS}
    for row in course.table():
        if row["part"] not in ("start", "hull", "mesh"):
            method, changes, _ = ARMS[row["arm"]]
            asked = METHODS[method].ask(prompts[row["kind"], row["colour"]], "toy", int(row["seed"]), changes)
            assert row["tag"] == asked.tag(row["part"])
    assert {"full"} < {row["arm"] for row in course.table()} <= set(ARMS)
    found = [len(course.pairs(claim)) for claim in EVERY.values()]
    assert all(n == 0 or n >= 5 for n in found) and max(found) == 16
