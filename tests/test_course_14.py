"""Notebook 14: both sides of its exercises, and the results that it reads."""
import math

import pytest
import torch
from exercises import both_sides, solution, written

from dreamlab.course import manyviews

# notebook, the student's function, its check, and wrong answers: how the solution is spoiled -> words of the verdict
EXERCISES = [
    ("14_many_views", "numbers", manyviews.check_numbers, {
        ("back, back]", "back, position]"): "not divided",
        ("[right, up, back, back]", "[right, -up, -back, back]"): "OpenCV",
        ("[right, up, back, back]", "[right, -up, -back, position]"): "OpenCV.*and the position is not",
        ("cross(z, back)", "cross(back, z)"): "right is left, and up is down",
        ("[right, up", "[-right, up"): "right is left: ",
        ("cross(back, right)", "cross(right, back)"): "up is down: ",
        ("[right, up, back, back]", "[-right, up, -back, back]"): "this is forward",
        ("[right, up, back, back]", "[right, up, -back, back]"): "third axis points forward",
        ("[right, up, ", "[right, z, "): "at a right angle",
        ("torch.cat([m, last])", "torch.linalg.inv(torch.cat([m, last]))"): "world-to-camera",
        ("m = torch.stack([right, up, back, back], 1)",
         "m = torch.cat([torch.stack([right, up, back]), back[:, None]], 1)"): "axes are rows",
        (".flatten()", ".T.flatten()"): "column by column",
        (".flatten()", ""): "lay its rows",
        ("torch.cat([m, last]).flatten()", "m.flatten()"): r"shape \(4, 12\)",
    }),
    ("14_many_views", "together", manyviews.check_together, {
        ("rows // views, views * length", "rows, length"): "each view is alone",
        ("rows // views, views * length", "1, rows * length"): "all sets are one row",
        ("tokens.reshape(rows // views, views * length, channels)",
         "tokens.reshape(views, -1, length, channels).transpose(0, 1).reshape(rows // views, -1, channels)"): "there and back",
        ("return joined", "return joined.reshape(-1, length, views, channels).transpose(1, 2)"): "way back mixes",
        ("attend(", "("): "not called",
        ("return ", "return tokens + "): "adds the tokens",
        ("rows // views, views * length, channels", "rows // views, length, views * channels"): "c stays",
        (".reshape(rows, length, channels)", ""): "shape inside",
        ("return joined", "return joined[0]  #"): r"shape \(15, 8\)",
    }),
    ("14_many_views", "pose", manyviews.check_pose, {
        ("-up", "up"): "going up is negative",
        ("(cameras.elevation_deg - seen.elevation_deg).deg2rad()",
         "cameras.elevation_deg - seen.elevation_deg"): "degrees: the first",
        ("(cameras.azimuth_deg - seen.azimuth_deg).deg2rad()", "cameras.azimuth_deg - seen.azimuth_deg"): "sin and cos want",
        ("turn.sin(), turn.cos()", "turn.cos(), turn.sin()"): "swapped",
        ("cameras.azimuth_deg - seen.azimuth_deg", "seen.azimuth_deg - cameras.azimuth_deg"): "azimuths.*wrong way round",
        ("cameras.radius - seen.radius", "seen.radius - cameras.radius"): "distances.*wrong way round",
        ("cameras.azimuth_deg - seen.azimuth_deg", "cameras.azimuth_deg"): "own azimuth",
        ("cameras.radius - seen.radius", "cameras.radius"): "own distance",
        ("def pose(cameras, seen):", "def pose(cameras, seen):\n    cameras, seen = seen, cameras"): "all of this",
        ("turn.sin(), turn.cos()", "turn"): r"shape \(4, 3\)",
        ("-up, turn.sin(), turn.cos(), cameras.radius - seen.radius",
         "cameras.radius - seen.radius, -up, turn.sin(), turn.cos()"): "stands last",
    }),
]

test_stub_is_asked_for, test_solution_is_right, test_typical_mistakes_are_named = both_sides(EXERCISES)


def test_mistakes_beyond_one_line():
    """Views taken as (v b) on the way there and back; degrees with the wrong sign; nothing beside the picture's camera."""
    def strided(attend, tokens, views):
        rows, length, channels = tokens.shape
        joined = attend(tokens.reshape(views, -1, length, channels).transpose(0, 1).reshape(rows // views, -1, channels))
        return joined.reshape(-1, views, length, channels).transpose(0, 1).reshape(tokens.shape)

    def degrees(cameras, seen):
        turn = (cameras.azimuth_deg - seen.azimuth_deg).deg2rad()
        up = cameras.elevation_deg - seen.elevation_deg
        return torch.stack([up, turn.sin(), turn.cos(), cameras.radius - seen.radius], 1)

    def alone(cameras, seen):
        azimuth = cameras.azimuth_deg.deg2rad()
        return torch.stack([-cameras.elevation_deg.deg2rad(), azimuth.sin(), azimuth.cos(), cameras.radius], 1)

    assert "(b v), not (v b)." in manyviews.check_together(strided)
    assert "degrees, and the wrong sign" in manyviews.check_pose(degrees)
    assert "own place" in manyviews.check_pose(alone)


@pytest.mark.parametrize("name, check", [(name, check) for _, name, check, _ in EXERCISES])
def test_an_answer_of_another_kind_is_refused_and_a_copy_is_right(name, check):
    """A check's own tensors are left as they are, whatever the answer does to what it is given."""
    assert check(lambda *_: torch.zeros(2, 2, 2, 2).sum()).startswith("Not yet")
    right = written(solution("14_many_views", name), name)

    def careless(*given):
        found = right(*given)
        for x in given:
            if isinstance(x, torch.Tensor):
                x.zero_()
        return found

    assert check(careless).startswith("Right")


def test_the_stored_readings_are_what_the_notebook_reads():
    """The instrument's known cases, and each prior with its views together and alone, with every share in [0, 1]."""
    found = manyviews.benchmark("multiview")
    for name in ("true views", "autoencoder", "in another order", "turned by 30 degrees", "without a face", "prior's",
                 "attention off"):
        assert found[name]["sets"] == 64
        assert all(0 <= found[name][share] <= 1 for share in (
            "one_front", "all_within_20_deg", "within_20_deg_of_each_other", "kind", "colour"))
    found = manyviews.benchmark("zero123")
    for where in ("from the front", "from anywhere"):
        for name in ("autoencoder", "six together", "each alone", "the picture itself", "taken for the front"):
            row = found[f"{where}, {name}"]
            assert row["pictures"] == 64 and all(0 <= row[share] <= 1 for share in ("within_20_deg", "kind", "colour"))
            assert row["held_out"]["psnr"] > 0


def test_the_stored_sweep_is_what_the_notebook_reads():
    """Pairs of one prompt and seed with as many steps, every measure in its range, and pictures of one seed of all kinds."""
    found = manyviews.pairs()
    assert found and len({manyviews.kind_of(pair) for pair in found}) == 8
    for pair in found:
        assert len({(row["prompt"], row["seed"], row["steps"]) for row in pair.values()}) == 1
        for row in pair.values():
            assert 0 <= row["iou"] <= 1 and row["fronts"] in range(5) and row["psnr"] > 0 and not math.isnan(row["view_ratio"])
    prompts, sheet = manyviews.pictures()
    assert sheet.shape[:3] == (4, len(prompts), 3) and len(prompts) == 8
    assert (sheet.flatten(3).std(-1) > 0.02).all(), "a picture is empty"
