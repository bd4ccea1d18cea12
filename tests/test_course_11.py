"""Notebook 11: both sides of its exercises."""
from exercises import both_sides

from dreamlab.course import fields

# notebook, the student's function, its check, and wrong answers: how the solution is spoiled -> words of the verdict
EXERCISES = [
    ("11_fields", "weights", fields.check_weights, {
        ("return T * (1 - torch.exp(-x))", "return 1 - torch.exp(-x)"): "T is missing",
        ("return T * (1 - torch.exp(-x))", "return T"): "alpha is missing",
        ("(x.cumsum(-1) - x)", "x.cumsum(-1)"): "own thickness",
        ("T = torch.exp(-(x.cumsum(-1) - x))\n    return T * (1 - torch.exp(-x))", "return torch.exp(-x.cumsum(-1))"):
            "T behind the sample",
        ("density * delta", "density"): "delta is missing",
        ("(1 - torch.exp(-x))", "x"): "only where it is small",
        ("(1 - torch.exp(-x))", "density"): "alpha is the density",
        ("torch.exp(-(x.cumsum(-1) - x))", "torch.cat([torch.ones(5, 1), (1 - x).cumprod(-1)[:, :-1]], -1)"):
            "one of 1 - alpha",
        ("x.cumsum(-1)", "x.flip(-1).cumsum(-1).flip(-1)"): "back to front",
        ("torch.exp(-(x", "torch.exp((x"): "wrong sign in T",
        ("1 - torch.exp(-x)", "torch.exp(-x) - 1"): "negative",
        ("1 - torch.exp(-x)", "1 - torch.exp(x)"): "wrong sign in alpha",
        ("cumsum(-1)", "cumsum(0)"): "over the rays",
        ("return T * (1 - torch.exp(-x))", "w = T * (1 - torch.exp(-x))\n    return w / w.sum(-1, keepdim=True)"): "sum to 1",
        ("return T * (1 - torch.exp(-x))", "return (T * (1 - torch.exp(-x))).sum(-1)"): r"shape \(5,\)",
    }),
    ("11_fields", "corner_weights", fields.check_corner_weights, {
        ("u[:, None], 1 - u[:, None]", "1 - u[:, None], u[:, None]"): "swapped",
        ("[i, j, k] for", "[k, j, i] for"): "another order",
        ("x * resolution - (x * resolution).floor()", "x"): "resolution is missing",
        (" - (x * resolution).floor()", ""): "cell's place is missing",
        (".floor()", ".round()"): "nearest corner: the cell",
        ("u = x * resolution - (x * resolution).floor()", "u = (x * resolution - 0.5) % 1"): "half a cell off",
        ("def corner_weights(x, resolution):", "def corner_weights(x, resolution):\n    resolution = resolution + 1"):
            "resolution \\+ 1 corners",
        ("def corner_weights(x, resolution):", "def corner_weights(x, resolution):\n    resolution = resolution - 1"):
            "do not take one off",
        (".prod(-1)", ".sum(-1)"): "adds the three",
        (".prod(-1)", ".mean(-1)"): "mean of the three",
        ("    corners", "    u = u.round()\n    corners"): "nearest corner alone",
        ("    corners", "    u = 0 * u\n    corners"): "lower corner alone",
        (".prod(-1)", ""): r"shape \(9, 8, 3\)",
    }),
    ("11_fields", "facing_away", fields.check_facing_away, {
        ("facing.clamp", "(-facing).clamp"): "wrong side",
        (".clamp(min=0)", ""): "both sides",
        (".square()", ""): "square is missing",
        ("w * ", ""): "weights are missing: what",
        ("(w * facing.clamp(min=0).square()).sum() / rays", "facing.clamp(min=0).square().mean()"): "a mean over the samples",
        (".sum() / rays", ".mean()"): "divide by the rays, or",
        (" / rays", ""): "sum over all rays",
        (" / rays", " / w.sum()"): "sum of the weights",
        ("(w * facing.clamp(min=0).square())", "(w * facing.clamp(min=0)).square()"): "squared too",
        ("return ", "return -"): "wrong sign",
        (".square()).sum()", ".square())"): r"shape \(40,\)",
    }),
]

test_stub_is_asked_for, test_solution_is_right, test_typical_mistakes_are_named = both_sides(EXERCISES)
