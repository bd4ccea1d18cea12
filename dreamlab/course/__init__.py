"""What the notebooks share: stored results, rows of pictures, and the self-checks of their exercises.

Each check runs the student's function and says, in words, what it found.
An answer is compared with the library on random inputs and, where it differs, with what typical mistakes give.
"""
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from dreamlab.metrics.truth import iou, psnr
from dreamlab.noise import Schedule
from dreamlab.priors.base import guide
from dreamlab.priors.mixture import GaussianMixturePrior
from dreamlab.prompts import Prompt
from dreamlab.rules.base import distill
from dreamlab.rules.sds import SDS
from dreamlab.schedules import dca_lambda
from dreamlab.sweep import read

DATA = Path(__file__).parent / "data"
RESULTS = Path(__file__).parents[2] / "benchmarks/results"
ANY = torch.tensor([-1])  # the condition of a mixture prior that leaves the label free


def stored(name: str) -> dict:
    """Results of a benchmark that takes too long for a notebook, as it stored them."""
    return json.loads((DATA / f"{name}.json").read_text())


def benchmark(name: str) -> dict:
    """What ``python -m benchmarks.NAME`` has stored beside the benchmarks, in a checkout."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def rows(name: str) -> list[dict]:
    """The rows of a sweep over ``sweeps/NAME.toml``, as it stored them."""
    return read(DATA / f"{name}.csv")


def stored_sheet(name: str) -> Float[Tensor, "h w 3"]:
    """The contact sheet beside them, in [0, 1]."""
    return torch.from_numpy(np.array(Image.open(DATA / f"{name}.webp").convert("RGB"))) / 255


def sheet(name: str, views: int = 3, side: int = 64) -> Float[Tensor, "methods runs views side side 3"]:
    """The pictures that :func:`dreamlab.sweep.sheet` has put into it: a method, a prompt and seed, a view each."""
    return stored_sheet(name).unfold(0, side, side).unfold(1, side, side).permute(0, 1, 3, 4, 2).unflatten(1, (-1, views))


def gallery(rows: Sequence, labels: Sequence[str] | None = None, titles: Sequence[str] | None = None, size: float = 1.0,
            every: int = 0) -> None:
    """Shows rows of pictures (n, H, W, 3) in [0, 1], each ``size`` inches wide, with a label beside each row and titles above.

    Fewer titles than columns stand over equally many columns each. ``every`` > 0 draws a line after so many columns.
    """
    import matplotlib.pyplot as plt

    height, width = len(rows), len(rows[0])
    if titles and width % len(titles):
        raise ValueError(f"{len(titles)} titles cannot share {width} columns equally: give one each, or a divisor of {width}")
    beside = 0.1 * max((len(line) for label in labels or [] for line in label.split("\n")), default=0)
    _, axes = plt.subplots(height, width, figsize=(size * width + 0.4 + beside, size * height + 0.3), squeeze=False)
    for i, row in enumerate(rows):
        for j, (ax, picture) in enumerate(zip(axes[i], row, strict=True)):
            ax.imshow(picture.clamp(0, 1).numpy(force=True))
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            if every and j and j % every == 0:
                ax.spines["left"].set(visible=True, color="0.4")
        if labels:
            axes[i, 0].set_ylabel(labels[i], rotation=0, ha="right", va="center")
    for j, title in enumerate(titles or []):
        step = width // len(titles)
        axes[0, j * step].set_title(title, fontsize=9, loc="left" if step > 1 else "center")
    plt.tight_layout(pad=0.3)
    plt.show()


def judge(answer, right: Tensor, mistakes: dict[str, Tensor], hint: str) -> str:
    """"Right", "Not done yet" or "Not yet", with the mistake's name where ``answer`` equals what that mistake gives."""
    if answer is None:
        return f"Not done yet. Hint: {hint}"
    if not isinstance(answer, Tensor) or answer.shape != right.shape:
        got = f"shape {tuple(answer.shape)}" if isinstance(answer, Tensor) else f"a {type(answer).__name__}"
        return f"Not yet: a tensor of shape {tuple(right.shape)} is wanted, and this is {got}."
    if torch.allclose(answer, right, rtol=1e-3, atol=1e-5):
        return "Right: equal to the library on random inputs."
    for name, wrong in mistakes.items():
        if torch.allclose(answer, wrong, rtol=1e-3, atol=1e-5):
            return f"Not yet: {name}"
    return f"Not yet: off by up to {(answer - right).abs().max():.2g}. Hint: {hint}"


def check_denoised(answer: Callable) -> str:
    """Notebook 01, exercise 1: ``denoised(x_t, alpha, sigma, mean, std)``, E[x | x_t] for one Gaussian."""
    g = torch.Generator().manual_seed(1)
    mean, std = torch.tensor([0.7, -0.4]), 0.6
    prior = GaussianMixturePrior(mean[None], std)
    x_t, t = torch.randn(16, 2, generator=g), torch.randint(50, 950, (16,), generator=g)
    alpha, sigma = prior.schedule.alpha(t, x_t), prior.schedule.sigma(t, x_t)
    gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
    return judge(answer(x_t, alpha, sigma, mean, std), prior.denoised(x_t, t, ANY), {
        "wrong sign: the estimate moves from the mean towards x_t, not away.": mean - gain * (x_t - alpha * mean),
        "alpha is missing from the mean of x_t: noising shrinks the mean to alpha * mean.": mean + gain * (x_t - mean),
        "alpha is missing from the gain, Cov(x, x_t) / Var(x_t).": mean + gain / alpha * (x_t - alpha * mean),
        "std is a standard deviation; its square is the variance.":
            mean + alpha * std / (alpha**2 * std + sigma**2) * (x_t - alpha * mean),
        "this is x_t / alpha: it ignores what the prior knows.": x_t / alpha,
    }, "x and x_t are jointly Gaussian, so E[x | x_t] = E[x] + Cov(x, x_t) / Var(x_t) * (x_t - E[x_t]).")


def check_guided_score(answer: Callable) -> str:
    """Notebook 01, exercise 2: ``guided_score(eps_y, eps_null, sigma, s)``, with diffusers' s."""
    g = torch.Generator().manual_seed(2)
    eps_y, eps_null = torch.randn(2, 16, 2, generator=g)
    sigma, s = torch.rand(16, 1, generator=g) * 0.9 + 0.05, 4.0
    right = -guide(eps_y, eps_null, s) / sigma
    return judge(answer(eps_y, eps_null, sigma, s), right, {
        "wrong sign: noise points away from the data, the score towards it.": -right,
        "1 / sigma is missing: this is the noise, not the score.": right * sigma,
        "this divides by sigma squared.": right / sigma,
        "your s is one too large. eps_y + s (eps_y - eps_null) is the papers' other convention: here s = 1 means none.":
            -guide(eps_y, eps_null, 1 + s) / sigma,
        "the two predictions are swapped: guidance starts at the null one.": -guide(eps_null, eps_y, s) / sigma,
    }, "the score is -eps / sigma, and guidance is null + s (positive - null).")


@torch.enable_grad()
def check_sds(answer: Callable) -> str:
    """Notebook 01, exercise 3: ``sds_loss(prior, x, t, eps, prompt, s)``, a scalar; its gradient is what is judged."""
    g = torch.Generator().manual_seed(3)
    prior = GaussianMixturePrior(torch.randn(4, 2, generator=g), 0.3, labels=torch.tensor([0, 0, 1, 1]))
    prompt, s = Prompt(torch.tensor([1]), ANY), 3.0
    x = torch.randn(16, 2, generator=g)
    t, eps = torch.randint(200, 800, (16,), generator=g), torch.randn(16, 2, generator=g)
    w = prior.schedule.sigma(t, x) ** 2

    def gradient(loss: Callable) -> Tensor | None:
        leaf = x.clone().requires_grad_()
        value = loss(leaf)
        if value is None:
            return None
        return torch.autograd.grad(value.sum(), leaf)[0] if value.requires_grad else torch.zeros_like(x)

    def residual(leaf: Tensor, guidance: float = s) -> Tensor:
        return prior.guided(prior.add_noise(leaf, eps, t), t, prompt, guidance) - eps

    plain = residual(x)
    rule = SDS(guidance=s)
    right = gradient(lambda leaf: distill(leaf, rule(prior, leaf, t, eps, prompt)))
    through = "missing detach: your gradient also runs through the prior. SDS leaves its Jacobian out."
    mistakes = {
        "wrong sign: descending this loss climbs away from the data. The residual is prediction minus noise.": -right,
        "w(t) is missing: the residual is sigma_t^2 (eps_hat - eps).": plain,
        "w(t) is sigma here, and should be sigma^2.": right / prior.schedule.sigma(t, x),
        "this is the mean over all numbers: the gradient then shrinks with the batch. Take the sum.": right / x.numel(),
        "this is the mean over the batch: the gradient then shrinks with it. Take the sum.": right / len(x),
        "your s is one too large: null + s (positive - null), so s = 1 means none.": w * residual(x, 1 + s),
        through: gradient(lambda leaf: (w * residual(leaf) * leaf).sum()),
        through + " ": gradient(lambda leaf: (w * residual(leaf) ** 2).sum() / 2),
        through + "  ": gradient(lambda leaf: ((w * residual(leaf)) ** 2).sum() / 2),
        "the loss does not depend on x: detach the residual, and leave x in.": torch.zeros_like(x),
    }
    return judge(gradient(lambda leaf: answer(prior, leaf, t, eps, prompt, s)), right, mistakes,
                 "a sum over <residual.detach(), x> has the residual as its gradient.").rstrip()


def check_iou(answer: Callable) -> str:
    """Notebook 00, exercise 1: ``silhouette_iou(a, b)`` of coverages (V, H, W) in [0, 1], mean over the views."""
    g = torch.Generator().manual_seed(4)
    a = torch.rand(6, 12, 12, generator=g)
    b = (a + torch.randn(6, 12, 12, generator=g) * torch.linspace(0.05, 0.8, 6)[:, None, None]).clamp(0, 1)
    a[:, :4] *= torch.linspace(0.2, 1, 6)[:, None, None]  # views of different sizes
    A, B = a > 0.5, b > 0.5
    inside, union = (A & B).sum((1, 2)), (A | B).sum((1, 2))
    return judge(answer(a, b), iou(A, B).mean(), {
        "this is the Dice score: the union counts the common pixels once.": (2 * inside / (inside + union)).mean(),
        "this is the share of pixels that agree: empty pixels do not count.": (A == B).float().mean(),
        "union and intersection are swapped.": (union / inside).mean(),
        "the coverage is not thresholded: a pixel belongs to the silhouette where it is above 1/2.":
            (torch.minimum(a, b).sum((1, 2)) / torch.maximum(a, b).sum((1, 2))).mean(),
        "all views are thrown together: large silhouettes then count more. Take the IoU of each view, then the mean.":
            inside.sum() / union.sum(),
    }, "threshold both at 1/2; per view, pixels in both over pixels in either; mean over the views.")


def check_psnr(answer: Callable) -> str:
    """Notebook 02, exercise 1: ``psnr(a, b)`` of pictures in [0, 1], in dB."""
    g = torch.Generator().manual_seed(5)
    a = torch.rand(4, 8, 8, 3, generator=g)
    amount = torch.tensor([0.04, 0.1, 0.2, 0.4]).reshape(4, 1, 1, 1)  # a different PSNR for each picture
    b = (a + amount * torch.randn(4, 8, 8, 3, generator=g)).clamp(0, 1)
    right = torch.tensor(psnr(a, b))
    return judge(answer(a, b), right, {
        "wrong sign: a better picture has a greater PSNR.": -right,
        "log is the natural logarithm; decibels are ten times log10.": -10 * (a - b).square().mean().log(),
        "this takes the root of the mean squared error first, and so gives half the decibels.": right / 2,
        "10 is missing: this is in bels.": right / 10,
        "this is the mean of each picture's PSNR: average the squared error first, over everything.":
            -10 * (a - b).square().mean((1, 2, 3)).log10().mean(),
        "this is the mean of absolute errors: square them.": -10 * (a - b).abs().mean().log10(),
    }, "-10 log10 of the mean squared error.")


def check_correlation(answer: Callable) -> str:
    """Notebook 02, exercise 2: ``correlation(a, b)`` of two tensors, over all their numbers."""
    g = torch.Generator().manual_seed(6)
    a = 0.7 + torch.randn(4, 3, 5, 5, generator=g)
    b = 0.4 * a + 0.5 * torch.randn(4, 3, 5, 5, generator=g) - 0.9
    x, y = a - a.mean(), b - b.mean()
    right = torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]
    return judge(answer(a, b), right, {
        "this is the covariance: divide by both standard deviations.": (x * y).mean(),
        "this divides by the variances; a correlation is the covariance over the standard deviations.":
            (x * y).mean() / (x.square().mean() * y.square().mean()),
        "this divides by one variance only: a regression slope, not a correlation.": (x * y).mean() / x.square().mean(),
        "the means are not taken off: this is the cosine between the two.": (a * b).sum() / (a.norm() * b.norm()),
        "this is the squared correlation.": right**2,
    }, "take off the means; mean of the product, over the product of the standard deviations.")


def check_dca(answer: Callable) -> str:
    """Notebook 02, exercise 3: ``dca(t, abar)``, DreamMapping's lambda_t; ``t`` and ``abar`` have shape (B,)."""
    schedule = Schedule.scaled_linear()
    t = torch.tensor([0, 20, 150, 299, 300, 301, 302, 650, 999])
    abar = schedule.abar(t)
    return judge(answer(t, abar), dca_lambda(schedule, t), {
        "the two sides are swapped: lambda is 1 where the noise is high.": torch.where(t > 300, 1 - abar, 1.0),
        "t = 300 belongs to the lower side (Eq. 18; Algorithm 1 of the paper says otherwise).":
            torch.where(t >= 300, 1.0, 1 - abar),
        "this is abar: lambda rises with t, as 1 - abar does.": torch.where(t > 300, 1.0, abar),
        "this is sigma; lambda is its square, 1 - abar.": torch.where(t > 300, 1.0, (1 - abar).sqrt()),
        "there is no cut-off: above t = 300 lambda is 1.": 1 - abar,
    }, "torch.where(t > 300, one value, another).")
