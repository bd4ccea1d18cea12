"""Both sides of notebook 04's exercises, and the comparison that it reads."""
from exercises import both_sides

from dreamlab.course import rulebook
from dreamlab.rules import RULES

# notebook, the student's function, its check, and wrong answers: how the solution is spoiled -> words of the verdict
EXERCISES = [
    ("04_rule_book", "csd", rulebook.check_csd, {
        ("sds(s) - sds(0)", "sds(0) - sds(s)"): "sign",
        ("(sds(s) - sds(0)) / s", "sds(s) - sds(0)"): "division by s is missing",
        ("sds(0)", "sds(1)"): "at s = 1 SDS still holds",
        ("(sds(s) - sds(0)) / s", "sds(s) - sds(1)"): "and the division by s is missing",
        ("(sds(s) - sds(0)) / s", "sds(s) / s"): "noise is still in it",
    }),
    ("04_rule_book", "delta_d", rulebook.check_delta_d, {
        ("t < 200", "t >= 200"): "swapped",
        ("t < 200", "t <= 200"): "t = 200",
        ("torch.where((t < 200)[:, None], eps_null, eps_null - eps_neg)", "eps_null - eps_neg"): "at every t",
        ("eps_null - eps_neg", "eps_neg - eps_null"): "sign",
        ("eps_null - eps_neg", "-eps_neg"): "leaves eps_null out",
    }),
    ("04_rule_book", "eps_phi", rulebook.check_exact_critic, {
        ("(x_t - alpha * (r @ x))", "(alpha * (r @ x) - x_t)"): "sign",
        (")) / sigma", "))"): "1 / sigma is missing",
        (")) / sigma", ")) / -sigma**2"): "score",
        ("(r @ x)", "x"): "only its own particle",
        ("(r @ x)", "x.mean(0)"): "counts the same",
        ("2 * sigma**2", "sigma**2"): "the 2 is missing",
        ("2 * sigma**2", "2 * sigma"): "not squared",
        ("torch.cdist(x_t, alpha * x)", "torch.cdist(x_t, x)"): "in the distances",
        ("alpha * (r @ x)", "(r @ x)"): "in the mean",
    }),
    ("04_rule_book", "rows", rulebook.check_rows, {
        ("+ 3", "+ 2"): "one row is missing",
        ("+ 3", "+ 1"): "pair at t is missing",
        ("math.ceil(s / stride)", "s // stride"): "round up",
        ("max(t - interval, 0)", "t"): "not to t",
        ("math.ceil(s / stride)", "2 * math.ceil(s / stride)"): "one row a step",
    }),
]

test_stub_is_asked_for, test_solution_is_right, test_typical_mistakes_are_named = both_sides(EXERCISES)


def test_the_comparison_is_whole_for_the_rules_it_names_and_its_sheet_fits():
    found, sheet = rulebook.comparison()
    rows, n = found["rows"], found["settings"]["pictures"]
    assert list(rows) == [*rulebook.told(), "samples", "renders"]
    assert rulebook.told() == [name for name in RULES if name in rows]  # a new rule may be missing
    seeds = {len(runs) for runs in rows.values()}
    assert seeds == {3} and sheet.shape == (64 * len(rows), 64 * n * 3, 3)
    assert all(0 <= row["kind"] <= 1 and row["sharpness_ratio"] > 0 for runs in rows.values() for row in runs)
    renders = [row["saturation_ratio"] for row in rows["renders"]]
    assert abs(sum(renders) / len(renders) - 1) < 0.4, "real renders are what the ratios are taken to"
