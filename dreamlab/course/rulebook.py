"""Notebook 04, the rule book: its self-checks, and the comparison on pictures that ``benchmarks/rule_book.py`` made."""
from collections.abc import Callable

import torch
from torch import Tensor

from dreamlab.course import ANY, judge, stored, stored_sheet
from dreamlab.priors.critic import ExactCritic
from dreamlab.priors.mixture import GaussianMixturePrior
from dreamlab.prompts import Prompt
from dreamlab.rules import CSD, ISM, SDS


def comparison() -> tuple[dict, Tensor]:
    """``{"settings": ..., "rows": {name: [measures of a seed, ...]}}``; its contact sheet (H, W, 3) in [0, 1], a row a name."""
    return stored("rule_book"), stored_sheet("rule_book")


def told() -> list[str]:
    """The rules that the comparison holds. One that came later is in ``RULES`` only, until the comparison is made again."""
    return [name for name in comparison()[0]["rows"] if name not in ("samples", "renders")]


def two_labels(generator: torch.Generator) -> tuple[GaussianMixturePrior, Tensor, Tensor, Tensor, Prompt]:
    """A mixture of four modes under two labels; 16 points with t and noise; the prompt for label 1."""
    prior = GaussianMixturePrior(torch.randn(4, 2, generator=generator), 0.3, labels=torch.tensor([0, 0, 1, 1]))
    x, t = torch.randn(16, 2, generator=generator), torch.randint(100, 800, (16,), generator=generator)
    return prior, x, t, torch.randn(16, 2, generator=generator), Prompt(torch.tensor([1]), ANY)


def check_csd(answer: Callable) -> str:
    """Exercise 1: ``csd(sds, s)``, CSD's residual (no negative prompt) from calls of ``sds(s)``, SDS's at guidance s."""
    args = two_labels(torch.Generator().manual_seed(1))
    s = 4.0

    def sds(guidance: float | int) -> Tensor:
        return SDS(guidance=float(guidance))(*args).value

    return judge(answer(sds, s), CSD()(*args).value, {
        "wrong sign: it must point from the null prediction to the prompted one.": -CSD()(*args).value,
        "the division by s is missing: the difference holds s (eps_y - eps_null).": sds(s) - sds(0),
        "at s = 1 SDS still holds one (eps_y - eps_null). Take off SDS at s = 0, the null prompt alone.": (sds(s) - sds(1)) / s,
        "at s = 1 SDS still holds one (eps_y - eps_null), and the division by s is missing.": sds(s) - sds(1),
        "this is SDS over s: the noise is still in it.": sds(s) / s,
    }, "SDS(s) = w (eps_null + s (eps_y - eps_null) - eps) is a straight line in s. What is its slope?")


def check_delta_d(answer: Callable) -> str:
    """Exercise 2: ``delta_d(eps_null, eps_neg, t)``, NFSD's denoising direction with its cut-off at 200; t has shape (B,)."""
    g = torch.Generator().manual_seed(2)
    eps_null, eps_neg = torch.randn(2, 6, 3, generator=g)
    t = torch.tensor([20, 150, 199, 200, 201, 900])

    def delta(low: Tensor, noise: Tensor = eps_neg) -> Tensor:
        return torch.where(low[:, None], eps_null, eps_null - noise)

    return judge(answer(eps_null, eps_neg, t), delta(t < 200), {
        "the two sides are swapped: at high t the prediction is mostly noise, and eps_neg takes it off.": delta(t >= 200),
        "t = 200 belongs to the upper side.": delta(t <= 200),
        "this takes eps_neg off at every t: below 200 nothing is taken off.": eps_null - eps_neg,
        "wrong sign on the upper side: it is eps_null - eps_neg.":
            torch.where((t < 200)[:, None], eps_null, eps_neg - eps_null),
        "the upper side is eps_null - eps_neg: this leaves eps_null out.": torch.where((t < 200)[:, None], eps_null, -eps_neg),
    }, "torch.where((t < 200)[:, None], one value, another).")


def check_exact_critic(answer: Callable) -> str:
    """Exercise 4: ``eps_phi(x_t, x, alpha, sigma)``, the exact noise in x_t (B, 2), a noised one of the particles x (N, 2)."""
    g = torch.Generator().manual_seed(3)
    prior, x, _, eps, _ = two_labels(g)
    t = torch.full((16,), 500)
    alpha, sigma = prior.schedule.alpha(t, x)[:1], prior.schedule.sigma(t, x)[:1]  # (1, 1)
    critic = ExactCritic(prior)
    critic.fit(x, t, eps, ANY)
    x_t = prior.add_noise(x, eps, t)
    square = torch.cdist(x_t, alpha * x).square()

    def predicted(r: Tensor) -> Tensor:
        return (x_t - alpha * r @ x) / sigma

    right = critic.eps(x_t, t, ANY)
    return judge(answer(x_t, x, alpha, sigma), right, {
        "wrong sign: this is towards the particles. Noise points away from them.": -right,
        "1 / sigma is missing: x_t = alpha x + sigma eps.": right * sigma,
        "this is the score: the noise is -sigma times it.": -right / sigma,
        "each x_t knows only its own particle: this is the noise that was added, and VSD with it is SDS.": eps,
        "every particle counts the same: weigh them by how likely x_t is from each.": predicted(torch.full((16, 16), 1 / 16)),
        "the exponent is -square / (2 sigma^2): the 2 is missing.": predicted((-square / sigma**2).softmax(1)),
        "the exponent is -square / (2 sigma^2): sigma is not squared.": predicted((-square / (2 * sigma)).softmax(1)),
        "alpha is missing in the distances: x_t scatters around alpha x.":
            predicted((-torch.cdist(x_t, x).square() / (2 * sigma**2)).softmax(1)),
        "alpha is missing in the mean: x_t - alpha * (the mean of x).":
            (x_t - (-square / (2 * sigma**2)).softmax(1) @ x) / sigma,
    }, "r = softmax over particles of -|x_t - alpha x|^2 / (2 sigma^2); then the noise in x_t if its x is the mean under r.")


def check_rows(answer: Callable) -> str:
    """Exercise 3: ``rows(t, interval, stride)``, the rows that one sample of ISM sends through the network; counted here."""
    prior, *_, prompt = two_labels(torch.Generator().manual_seed(4))
    counted, plain = [], prior._eps
    prior._eps = lambda x_t, *rest: counted.append(len(x_t)) or plain(x_t, *rest)

    def count(t: int, interval: int, stride: int) -> int:
        counted.clear()
        ISM(4.0, interval, stride)(prior, torch.zeros(1, 2), torch.tensor([t]), torch.zeros(1, 2), prompt)
        return sum(counted)

    cases = [(t, *other) for t in (30, 130, 450, 660, 980) for other in ((50, 200), (25, 100), (80, 300))]
    answers, hint = [answer(*case) for case in cases], "the inversion's steps, one row each; one row at s; two rows at t."
    if any(a is None for a in answers):
        return judge(None, torch.zeros(1), {}, hint)
    t, interval, stride = torch.tensor(cases).T
    s = (t - interval).clamp(min=0)
    up = -(-s // stride)
    return judge(torch.tensor([float(a) for a in answers]), torch.tensor([float(count(*case)) for case in cases]), {
        "one row is missing: one at s, which the residual takes off, and a pair at t, one call but two rows.": up + 2.0,
        "the pair at t is missing: eps_y and eps_null.": up + 1.0,
        "the last step of the inversion may be short, and is a step all the same: round up.": s // stride + 3.0,
        "the inversion goes to s = t - interval, not to t.": -(-t // stride) + 3.0,
        "the inversion has one prompt, the null one: one row a step.": 2 * up + 3.0,
    }, hint)
