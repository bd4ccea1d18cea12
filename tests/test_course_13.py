"""Notebook 13: both sides of its exercises, its claims' differences, and the tables that they are decided from."""
import csv
import json

import pytest
from exercises import both_sides

from dreamlab.course import DATA, dreamflow
from dreamlab.methods import METHODS

# notebook, the student's function, its check, and wrong answers: how the solution is spoiled -> words of the verdict
EXERCISES = [
    ("13_dreamflow", "timestep", dreamflow.check_timestep, {
        ("step // views", "step / views"): "changes at every step",
        ("step // views", "step"): "share a t",
        ("/ points", "/ (points - 1)"): "ends at end itself",
        ("start + (end - start)", "end + (start - end)"): "rises",
        ("step // views", "step % views"): "remainder",
        ("start + (end - start)", "end + (end - start)"): "starts at end",
        (".round()", ".floor()"): "rounded down",
        ("return ", "return step[:, None] + 0 * "): "shape",
    }),
    ("13_dreamflow", "chamfer", dreamflow.check_chamfer, {
        ("(far.amin(1).mean() + far.amin(0).mean()) / 2", "far.amin(1).mean()"): "from a to b",
        ("(far.amin(1).mean() + far.amin(0).mean()) / 2", "far.amin(0).mean()"): "from b to a",
        (" / 2", ""): "sum of both",
        ("cdist(a, b)", "cdist(a, b) ** 2"): "squared",
        ("(far.amin(1).mean() + far.amin(0).mean()) / 2", "torch.cat([far.amin(1), far.amin(0)]).mean()"): "points together",
        ("(far.amin(1).mean() + far.amin(0).mean()) / 2", "far.mean()"): "all pairs",
        ("(far.amin(1).mean() + far.amin(0).mean()) / 2", "torch.maximum(far.amin(1).max(), far.amin(0).max())"): "Hausdorff",
        ("(far.amin(1).mean() + far.amin(0).mean()) / 2", "(far.amax(1).mean() + far.amax(0).mean()) / 2"): "in place of the",
    }),
    ("13_dreamflow", "shift", dreamflow.check_shift, {
        ("moved.sum() / net", "net / moved.sum()"): "upside down",
        ("moved.sum()", "moved.mean()"): "mean step",
        ("views[1:] - views[:-1]", "views[1:] - views[0]"): "from the first picture",
        ("moved.sum() / net", "moved.square().sum() / net**2"): "square root",
        (" / net", ""): "way alone",
    }),
    ("13_dreamflow", "enough", dreamflow.check_enough, {
        ("return budgets[i - 1] + share * (budgets[i] - budgets[i - 1])", "return budgets[i]"): "first budget that was tried",
        ("torch.tensor(torch.inf)", "budgets[-1]"): "say inf",
        ("return budgets[0]", "return 0 * budgets[0]"): "below it nothing was tried",
        ("(wanted - quality[i - 1])", "(quality[i] - wanted)"): "turned round",
    }),
]

test_stub_is_asked_for, test_solution_is_right, test_typical_mistakes_are_named = both_sides(EXERCISES)


def test_differences_have_the_claims_sign():
    runs = {"a": {"x": "1.0"}, "b": {"x": "1.5"}}
    assert dreamflow.grows("x", "a", "b")(runs) == 0.5 == -dreamflow.falls("x", "a", "b")(runs)
    assert dreamflow.nearer("x", "a", "b", right=1.4)(runs) == pytest.approx(0.3)
    assert dreamflow.nearer("x", "a", "b")(runs) == -0.5
    assert dreamflow.slope([8.0, 4.0, 2.0, 1.0]) == pytest.approx(-3 * 0.6931, abs=1e-3)
    assert dreamflow.unrest([1.0, 2.0, 4.0]) == 0 < dreamflow.unrest([1.0, 4.0, 2.0])
    assert dreamflow.detour({"moved": [3.0, 1.0], "net": 2.0}) == 2


def test_every_claim_can_be_decided_from_the_stored_tables():
    arms = {"points", "field", "plain", "colour"}
    pairs, timed = dreamflow.mesh_pairs(arms), dreamflow.time_pairs()
    assert len(pairs) == 16 and len(timed) >= 5
    for claims, runs in ((dreamflow.MESH, pairs), (dreamflow.TIME, timed)):
        for claim in sum(claims.values(), []):
            assert claim.decide(runs).n == len(runs)


def test_stored_rows_carry_todays_tags():
    """What is stored was run with the settings that the methods have now."""
    from benchmarks.dreamflow import ARMS, PROMPTS
    from dreamlab.toybox.captions import parse

    prompts = {parse(prompt): prompt for prompt in PROMPTS}
    with open(DATA / "dreamflow.csv") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if row["part"] in ("start", "mesh"):
            continue
        method, changes, _ = ARMS[row["arm"]]
        asked = METHODS[method].ask(prompts[row["kind"], row["colour"]], "toy", int(row["seed"]), changes)
        assert row["tag"] == asked.tag(row["part"])
    assert {row["arm"] for row in rows} == set(ARMS)
    assert all(row["watertight"] == "True" for row in rows if row["part"] != "nerf")


def test_the_comparison_has_its_seeds_and_courses():
    table = json.loads((DATA / "apfo_field.json").read_text())["rows"]
    assert {(r["rule"], r["budget"]) for r in table} == {(rule, n) for rule in ("APFO", "VSD") for n in (30, 60, 120)}
    for row in table:
        if "course" in row:
            assert len(row["course"]["loss"]) == row["budget"] and len(row["moved"]) == 10
            assert sum(row["moved"]) >= row["net"] * (1 - 1e-3)
