"""Notebook 08: both sides of its exercises."""
from exercises import both_sides

from dreamlab.course import splatting

# notebook, the student's function, its check, and wrong answers: how the solution is spoiled -> words of the verdict
EXERCISES = [
    ("08_splatting", "to_pixels", splatting.check_to_pixels, {
        ("return pixels", "return torch.stack([pixels[:, 0], 48 - pixels[:, 1]], -1)"): "upside down",
        ("return pixels", "return pixels.flip(-1)"): "swapped",
        ("/ seen[:, 2:]", ""): "did not divide by z",
        ("return pixels", "return pixels - 0.5"): "half a pixel",
        ("return pixels", "return pixels + 0.5"): "half a pixel off, the other way",
        ("/ seen[:, 2:]", "/ seen.norm(dim=-1, keepdim=True)"): "distance to the camera",
        ("viewmat[:3, :3].T", "viewmat[:3, :3]"): "transposed",
        (" + viewmat[:3, 3]", ""): "translation is missing",
        (" + K[:2, 2]", ""): "centre is missing",
        ("K[0, 0] * ", ""): "focal length is missing",
        ("return pixels", "return (seen @ K.T)[:, :2]"): "before the divide",
        ("return pixels", "return torch.cat([pixels, seen[:, 2:]], -1)"): r"shape \(12, 3\)",
    }),
    ("08_splatting", "shadow", splatting.check_shadow, {
        ("R @ S @ S @ R.T", "R @ S @ R.T"): "standard deviations",
        ("R @ S @ S @ R.T", "R.T @ S @ S @ R"): "wrong way round",
        ("R @ S @ S @ R.T", "S @ S"): "rotation is missing",
        ("R @ S @ S @ R.T", "R @ S @ S"): "last R",
        ("W @ Sigma @ W.T", "W.T @ Sigma @ W"): "W is the wrong way round",
        ("W @ Sigma @ W.T", "Sigma"): "W is missing",
        (" + 0.3 * torch.eye(2)", ""): "blur is missing",
        ("0.3 *", "0.09 *"): "variance already",
        ("0.3 * torch.eye(2)", "0.3"): "diagonal only",
    }),
    ("08_splatting", "composite", splatting.check_composite, {
        ("zip(alphas, colors)", "zip(alphas.flip(0), colors.flip(0))"): "back to front",
        ("T * alpha * color", "T * (1 - alpha) * alpha * color"): "own alpha",
        (" + T * background", ""): "background is missing",
        ("T * background", "background"): "full weight",
        ("T * background", "T / (1 - alpha) * background"): "one short",
        ("T * alpha * color", "alpha * color"): "T is missing",
        ("T * alpha * color", "alpha * color; background = torch.zeros(3)"): "T is missing, and the background too",
        ("T * alpha * color", "T * color"): "alpha is missing",
        ("pixel + T * background", "pixel / (1 - T)"): "sum to 1",
    }),
    ("08_splatting", "split", splatting.check_split, {
        ("s / 1.6", "s"): "left as they are",
        ("s / 1.6", "s * 1.6"): "scales grow",
        ("s / 1.6", "s / 2"): "halved",
        ("(noise * s) @ R.T", "noise * s"): "rotation is missing",
        ("@ R.T", "@ R"): "wrong way round",
        ("(noise * s) @ R.T", "noise @ R.T * s"): "turn the noise first",
        ("(noise * s)", "noise"): "from a ball",
        ("noise * s)", "noise * s**2)"): "not by its square",
        ("noise * s)", "noise * s / 1.6)"): "new scales",
        ("mean + (noise * s) @ R.T", "mean + 0 * noise"): "old centre",
        ("mean + ", ""): "old centre is missing",
    }),
]

test_stub_is_asked_for, test_solution_is_right, test_typical_mistakes_are_named = both_sides(EXERCISES)
