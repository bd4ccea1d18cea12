"""Both sides of each exercise: the notebook's stub and solution, and the wrong answers that its check must name."""
import matplotlib.pyplot as plt
import pytest
import torch
from exercises import both_sides

from dreamlab import course

# notebook, the student's function, its check, and wrong answers: how the solution is spoiled -> words of the verdict
EXERCISES = [
    ("00_welcome", "silhouette_iou", course.check_iou, {
        ("inside / union)", "2 * inside / (inside + union))"): "Dice",
        ("inside / union", "union / inside"): "swapped",
        ("(a > 0.5).float(), (b > 0.5).float()", "a, b"): "not thresholded",
        ("(1, 2)", ""): "thrown together",
        (".mean()", ""): r"shape \(\) is wanted",
    }),
    ("01_exact_scores", "denoised", course.check_denoised, {
        ("mean + gain", "mean - gain"): "sign",
        ("x_t - alpha * mean", "x_t - mean"): "alpha is missing from the mean",
        ("gain = alpha * std**2", "gain = std**2"): "alpha is missing from the gain",
        ("std**2", "std"): "standard deviation",
    }),
    ("01_exact_scores", "guided_score", course.check_guided_score, {
        ("-(", "("): "sign",
        (" / sigma", ""): "1 / sigma is missing",
        ("(eps_null + s", "(eps_y + s"): "one too large",
        ("(eps_null + s * (eps_y - eps_null))", "(eps_y + s * (eps_null - eps_y))"): "swapped",
    }),
    ("01_exact_scores", "sds_loss", course.check_sds, {
        ("eps_hat - eps)", "eps - eps_hat)"): "sign",
        ("w * (eps_hat - eps)", "(eps_hat - eps)"): r"w\(t\) is missing",
        (".detach()", ""): "missing detach",
        (".sum()", ".mean()"): "mean over all",
        ("t, prompt, s)\n", "t, prompt, s + 1)\n"): "one too large",
        ("* x).sum()", "* x.detach()).sum()"): "does not depend on x",
    }),
    ("02_toybox_prior", "psnr", course.check_psnr, {
        ("-10", "10"): "sign",
        ("log10", "log"): "natural logarithm",
        (".mean()", ".mean().sqrt()"): "root",
        ("-10", "-1"): "10 is missing",
        (".mean().log10()", ".mean((1, 2, 3)).log10().mean()"): "each picture",
        (".square()", ".abs()"): "absolute",
    }),
    ("02_toybox_prior", "correlation", course.check_correlation, {
        (" / (a.square().mean() * b.square().mean()).sqrt()", ""): "covariance",
        (".sqrt()", ""): "variances",
        (" * b.square().mean()).sqrt()", ")"): "slope",
        ("a, b = a - a.mean(), b - b.mean()", "pass"): "means are not taken off",
        ("(a * b).mean() / (a.square().mean() * b.square().mean()).sqrt()",
         "(a * b).mean() ** 2 / (a.square().mean() * b.square().mean())"): "squared",
    }),
    ("02_toybox_prior", "dca", course.check_dca, {
        ("1.0, 1 - abar", "1 - abar, 1.0"): "swapped",
        ("t > 300", "t >= 300"): "t = 300",
        ("1 - abar", "abar"): "this is abar",
        ("1 - abar", "(1 - abar).sqrt()"): "sigma",
        ("torch.where(t > 300, 1.0, 1 - abar)", "1 - abar"): "no cut-off",
    }),
]

test_stub_is_asked_for, test_solution_is_right, test_typical_mistakes_are_named = both_sides(EXERCISES)


def test_shapes_and_types_are_reported():
    assert "shape (16, 2) is wanted, and this is a float" in course.check_denoised(lambda *a: 1.0)
    assert "off by up to" in course.check_denoised(lambda x_t, *a: x_t * 17)


@pytest.fixture
def shown(monkeypatch):
    """The axes of what a notebook would have shown, a row of pictures each."""
    monkeypatch.setattr(plt, "show", lambda: None)
    plt.switch_backend("agg")
    yield lambda: plt.gcf().axes
    plt.close("all")


def test_gallery_puts_every_picture_label_and_title_in_its_place(shown):
    pictures = torch.arange(6.0).reshape(2, 3, 1, 1, 1).expand(2, 3, 4, 4, 3) / 4  # the last one is above 1
    course.gallery([pictures[0], list(pictures[1])], ["upper", "lower"], ["a", "b", "c"])
    axes = shown()
    assert [ax.images[0].get_array()[0, 0, 0] for ax in axes] == [0, 0.25, 0.5, 0.75, 1, 1]
    assert [ax.get_ylabel() for ax in axes] == ["upper", "", "", "lower", "", ""]
    assert [ax.get_title() for ax in axes] == ["a", "b", "c", "", "", ""]


def test_gallery_shares_titles_and_parts_columns(shown):
    course.gallery([torch.zeros(4, 2, 2, 3)], titles=["left", "right"], every=2)
    axes = shown()
    assert [ax.get_title(loc="left") for ax in axes] == ["left", "", "right", ""]
    assert [ax.spines["left"].get_visible() for ax in axes] == [False, False, True, False]
    with pytest.raises(ValueError, match="3 titles cannot share 4 columns"):
        course.gallery([torch.zeros(4, 2, 2, 3)], titles=["a", "b", "c"])


def test_gallery_leaves_room_for_its_labels(shown):
    """A long label must not fall off the figure, nor squeeze the pictures."""
    course.gallery([torch.zeros(2, 2, 2, 3)], ["a label that is a good deal longer than a picture"])
    figure = plt.gcf()
    figure.canvas.draw()
    box = figure.axes[0].yaxis.label.get_window_extent()
    assert box.x0 >= 0 and figure.axes[0].get_window_extent().width > 0.7 * figure.dpi
