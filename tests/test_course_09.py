"""Notebook 09: both sides of its exercises, and the sweep that it reads."""
import math

import pytest
import torch
from exercises import both_sides

from dreamlab.course import janus
from dreamlab.course.dreammapping import SHORT

# notebook, the student's function, its check, and wrong answers: how the solution is spoiled -> words of the verdict
EXERCISES = [
    ("09_janus", "perp_neg", janus.check_perp_neg, {
        ("e + w", "e - w"): "sign",
        ("e_i - along", "e_i"): "all of e_i",
        ("+ w[:, None] * (e_i - along)", "- w[:, None] * e_i"): "all of e_i, and the sign",
        ("(e_i - along)", "along"): "parallel part",
        ("(e_i * e).sum(1, keepdim=True) / (e * e).sum(1, keepdim=True)",
         "(e_i * e).sum(1, keepdim=True) / e.norm(dim=1, keepdim=True)"): "its square",
        (" / (e * e).sum(1, keepdim=True)", ""): "not divided",
        ("sum(1, keepdim=True)", "sum()"): "whole batch",
        ("w[:, None] * ", ""): "w is missing",
        ("return e + ", "return "): "add it",
        ("along = e * (e_i * e).sum(1, keepdim=True) / (e * e).sum(1, keepdim=True)",
         "e, e_i, kept = e_i, e, e; along = e * (e_i * e).sum(1, keepdim=True) / (e * e).sum(1, keepdim=True); "
         "return kept + w[:, None] * (e_i - along)"): "wrong way round",
    }),
    ("09_janus", "mix", janus.check_mix, {
        ("a * front + (1 - a - b) * side + b * back", "b * front + (1 - a - b) * side + a * back"): "swapped",
        ("a * front + (1 - a - b) * side + b * back", "(1 - away[:, None] / 180) * front + away[:, None] / 180 * back"):
            "leaves the side out",
        ("(away / 90 - 1).clamp(min=0)", "(away / 90 * (away > 90))"): "counts on from 0",
        (".clamp(min=0)", ""): "below 0",
        ("away / 90", "away / 180"): "90 degrees",
    }),
    ("09_janus", "ranges", janus.check_ranges, {
        ("seen.roll(1)", "torch.cat([torch.tensor([False]), seen[:-1]])"): "counted twice",
        ("seen & ~seen.roll(1)", "seen[1:] & ~seen[:-1]"): "missed",
        ("seen & ~", "seen ^ "): "two edges",
        (" & ~seen.roll(1)", ""): "not the ranges",
        (".sum()", ".any()"): "whether there is any",
        ("int((seen & ~seen.roll(1)).sum())", "seen & ~seen.roll(1)"): "a list of beginnings: count them",
        ("int((seen & ~seen.roll(1)).sum())", "(seen & ~seen.roll(1)).numpy()"): "a list of beginnings: count them",
        ("int((seen & ~seen.roll(1)).sum())", "(seen & ~seen.roll(1)).nonzero().tolist()"): "a list of beginnings: count them",
    }),
]

test_stub_is_asked_for, test_solution_is_right, test_typical_mistakes_are_named = both_sides(EXERCISES)


def test_mixing_mistakes_beyond_the_solution():
    """Those that cannot be had by spoiling one line."""
    def backwards(front, side, back, away):
        u = away[:, None] / 90
        return torch.where(u <= 1, u * front + (1 - u) * side, (u - 1) * side + (2 - u) * back)

    def switch(front, side, back, away):
        a = away[:, None]
        return torch.where(a < 45, front, torch.where(a < 135, side, back))

    assert "wrong way within" in janus.check_mix(backwards)
    assert "switches" in janus.check_mix(switch)


@pytest.mark.parametrize("check", [check for _, _, check, _ in EXERCISES])
def test_an_answer_of_another_kind_is_refused(check):
    assert check(lambda *_: torch.zeros(2, 2, 2, 2).sum()).startswith("Not yet")


def test_the_stored_sweep_is_what_the_notebook_reads():
    """Five seeds of six methods, every measure in its range, and pictures for all of them."""
    found, sheet = janus.runs(), janus.pictures()
    assert len(found) == 5 and sheet.shape[:3] == (len(janus.METHODS), len(found), len(janus.SHOWN))
    for runs in found:
        assert list(runs) == janus.METHODS or set(runs) == set(janus.METHODS)
        assert len({row["prompt"] for row in runs.values()}) == 1 and len({row["steps"] for row in runs.values()}) == 1
        for row in runs.values():
            assert 0 <= row["iou"] <= 1 and row["fronts"] in range(5) and 0 <= row["view_ratio"] < 3
            assert row["psnr"] > 0 and not math.isnan(row["chamfer"]) and not row.get("error")
    assert (sheet.flatten(3).std(-1) > 0.02).all(), "a picture is empty"


def seeds(better: str, worse: str, **changes) -> list[dict]:
    """Five seeds in which ``better`` is right in all measures, ``worse`` is not, and the rest are as ``worse``."""
    right, wrong = dict(fronts=1, view_ratio=1.0, iou=0.9, psnr=25.0), dict(fronts=2, view_ratio=1.2, iou=0.8, psnr=20.0)
    return [{m: {k: v + 0.001 * seed * (k != "fronts") for k, v in (right if m == better else wrong).items()} | changes
             for m in janus.METHODS} for seed in range(5)]


@pytest.mark.parametrize("a, b, who", [
    ("ball, words", "ball, no words", "ball: words give"),
    ("points, Perp-Neg", "points, words", "points: Perp-Neg gives"),
    ("points, no words", "ball, no words", "no words: points give"),
])
def test_a_claim_holds_one_way_and_its_opposite_the_other(a, b, who):
    claims = [claim for claim in janus.claims() if claim.text.startswith(who)]
    assert len(claims) in (3, 4)
    for claim in claims:
        assert SHORT[claim.decide(seeds(a, b)).word] == "holds", claim.text
        assert SHORT[claim.decide(seeds(b, a)).word] == "opposite", claim.text


def test_fronts_that_are_all_right_tell_nothing():
    words = {claim.text: SHORT[claim.decide(seeds("ball, words", "", fronts=1)).word] for claim in janus.claims()}
    assert words["ball: words give front count nearer to 1"] == "ceiling"
    assert words["ball: words give higher IoU"] == "holds"


def test_the_claims_are_all_and_fit_a_page():
    texts = [claim.text for claim in janus.claims()]
    assert len(set(texts)) == len(texts) == 2 * 2 * 4 + 3 * 3 and max(map(len, texts)) <= 60
