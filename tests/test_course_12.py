"""Notebook 12: both sides of its exercises."""
from exercises import both_sides

from dreamlab.course import mesh

# notebook, the student's function, its check, and wrong answers: how the solution is spoiled -> words of the verdict
EXERCISES = [
    ("12_mesh", "crossing", mesh.check_crossing, {
        ("a / (a - b)", "0.5 + 0 * a"): "middle of the edge",
        ("a / (a - b)", "b / (b - a)"): "shares are swapped",
        ("a / (a - b)", "a / (b - a)"): "wrong sign",
        ("p + ", "p - "): "wrong sign",
        ("a / (a - b)", "a / (a + b)"): "no distance",
        ("a / (a - b)", "-a / b"): "divides by b",
        ("a / (a - b)", "a / b"): "and the sign is wrong too",
        ("p + ", "q + "): "starts at q",
        ("p + ", ""): "p is missing",
        (" * (q - p)", ""): "way is missing",
        ("return p", "return s  # p"): r"shape \(14, 1\)",
    }),
    ("12_mesh", "barycentrics", mesh.check_barycentrics, {
        (" / z", ""): "not perspective-correct",
        (" / z", " * z"): "multiplies by z",
        ("return w / w.sum(1, keepdim=True)", "return w"): "makes nothing of it",
        ("w = w / z\n    return w / w.sum(1, keepdim=True)", "return w / w.sum(1, keepdim=True) / z"): "at the end",
        (" / z", " / z**2"): "squared",
        ("w = w / z\n    return w / w.sum(1, keepdim=True)", "return w"): "these are areas",
        ("[area(b, c), area(c, a), area(a, b)]", "[area(a, b), area(b, c), area(c, a)]"): "another corner: the one",
        ("[area(b, c), area(c, a), area(a, b)]", "[area(c, a), area(a, b), area(b, c)]"): "another corner: the one",
        ("w = w / z\n", "w = w.roll(-1, 1)\n"): "another corner, and they are not perspective-correct",
        ("corners - points[:, None]", "corners - points[:, None] + 0.5"): "half a pixel off",
        ("corners - points[:, None]", "corners - points[:, None] - 0.5"): "half a pixel off, the other way",
        ("w.sum(1, keepdim=True)", "w.abs().sum(1, keepdim=True)"): "wrong sign",
        ("return w / w.sum(1, keepdim=True)", "return (w / w.sum(1, keepdim=True))[:, :2]"): r"shape \(\d+, 2\)",
    }),
    ("12_mesh", "covered", mesh.check_covered, {
        ("0.5 + d", "d"): "1/2 is missing",
        ("(d - 0.5).clamp(min=0)", "0 * d"): "other half is missing",
        ("(d - 0.5)", "d"): "outer pixel's 1/2",
        ("(d - 0.5).clamp(min=0)", "torch.where(d > 0.5, d, 0 * d)"): "outer pixel's 1/2",
        (".clamp(max=1)", ""): "more than a whole pixel",
        (".clamp(min=0)", ""): "less than nothing",
        ("(0.5 + d).clamp(max=1), (d - 0.5).clamp(min=0)", "0.5 + d, d - 0.5"): "and less than nothing",
        ("(0.5 + d).clamp(max=1), (d - 0.5).clamp(min=0)", "0 * d + 1, 0 * d"): "hard picture",
        ("(0.5 + d).clamp(max=1), (d - 0.5).clamp(min=0)", "0 * d + 1, (d > 0.5).float()"): "nearer centre",
        ("def covered(d):", "def covered(d):\n    d = 1 - d"): "other end",
        ("], 1)", "], 1).flip(1)"): "swapped",
        ("return ", "return 1 - "): "background",
        ("], 1)", "])"): r"shape \(2, 12\)",
    }),
]

test_stub_is_asked_for, test_solution_is_right, test_typical_mistakes_are_named = both_sides(EXERCISES)
