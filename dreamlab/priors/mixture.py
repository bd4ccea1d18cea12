"""Exact priors: noised mixtures of Gaussians, whose scores are closed form. They tell a wrong rule from a weak network.

If x ~ sum_k w_k N(mu_k, std_k² I), then x_t ~ sum_k w_k N(alpha_t mu_k, v_k I), v_k = alpha_t² std_k² + sigma_t². With
the responsibilities r_k = p(k | x_t), the score is sum_k r_k (alpha_t mu_k - x_t) / v_k, and eps = -sigma_t score.
"""
import math
import re

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dreamlab.noise import Schedule
from dreamlab.priors.base import Prior
from dreamlab.types import Sample, Steps

Points = Float[Tensor, "b d"]


class GaussianMixturePrior(Prior):
    """K Gaussians in D dimensions. A sample is a point (D,), a condition an integer label (B,) or (1,); -1 means any.

    ``means`` (K, D), ``std`` (K,) or one number, >= 0; ``weights`` (K,) >= 0, uniform by default; ``labels`` (K,) long,
    by default component k has label k. ValueError for a label that no component has.
    """

    def __init__(self, means: Float[Tensor, "k d"], std: Float[Tensor, "k"] | float = 0.1,
                 weights: Float[Tensor, "k"] | None = None, labels: Int[Tensor, "k"] | None = None,
                 schedule: Schedule | None = None):
        K = len(means)
        self.means, self.shape = means, (means.shape[1],)
        self.std = torch.as_tensor(std).to(means).expand(K)
        self.weights = torch.full_like(self.std, 1 / K) if weights is None else weights / weights.sum()
        self.labels = torch.arange(K, device=means.device) if labels is None else labels
        self.schedule = schedule or Schedule.scaled_linear()

    @property
    def null(self) -> Int[Tensor, "1"]:
        return torch.tensor([-1], device=self.means.device)

    def _log_joint(self, x_t: Points, t: Steps, cond: Int[Tensor, "b"]) -> Float[Tensor, "b k"]:
        """log p(k, x_t | cond), -inf where component k does not carry the label."""
        allowed = (self.labels == cond[:, None]) | (cond[:, None] == -1)
        if not (known := allowed.any(1)).all():
            raise ValueError(f"no component has label {int(cond[~known][0])}: "
                             f"the labels are {self.labels.unique().tolist()}, and -1 for any")
        w = self.weights * allowed
        v = self._v(x_t, t)
        square = (x_t[:, None] - self.schedule.alpha(t, x_t)[..., None] * self.means).square().sum(-1)
        return (w / w.sum(1, keepdim=True)).log() - square / (2 * v) - x_t.shape[1] / 2 * (2 * math.pi * v).log()

    def _v(self, x_t: Points, t: Steps) -> Float[Tensor, "b k"]:
        return (self.schedule.alpha(t, x_t) * self.std) ** 2 + self.schedule.sigma(t, x_t) ** 2

    def log_density(self, x_t: Points, t: Steps, cond: Int[Tensor, "b"]) -> Float[Tensor, "b"]:
        """log p_t(x_t | cond)."""
        return self._log_joint(x_t, t, cond).logsumexp(1)

    def score(self, x_t: Points, t: Steps, cond: Int[Tensor, "b"]) -> Points:
        """The gradient of :meth:`log_density` with respect to x_t, in closed form."""
        r = self._log_joint(x_t, t, cond).softmax(1) / self._v(x_t, t)
        return self.schedule.alpha(t, x_t) * (r @ self.means) - r.sum(1, keepdim=True) * x_t

    def class_posterior(self, x_t: Points, t: Steps) -> Float[Tensor, "b labels"]:
        """p(label | x_t), a column per label in increasing order: the classifier that guidance follows."""
        r = self._log_joint(x_t, t, torch.full_like(t, -1)).softmax(1)
        return torch.stack([r[:, self.labels == label].sum(1) for label in self.labels.unique()], 1)

    def _eps(self, x_t: Sample, t: Steps, cond: Tensor) -> Sample:
        return -self.schedule.sigma(t, x_t) * self.score(x_t, t, cond)


class ImageMixturePrior(Prior):
    """The noised empirical distribution of N labelled images, each a component of width ``std``.

    ``images`` (N, C, H, W) in the space of samples, so [-1, 1] for pictures (rendered over one background). ``labels``
    names N values each: ``{"kind": ["duck", ...], "colour": [...], "view": [...]}``. A condition is (B, N), a weight
    >= 0 per image, made by :meth:`cond` from labels or :meth:`embed` from text. It memorises: for tests and lessons.
    """

    def __init__(self, images: Float[Tensor, "n c h w"], labels: dict, std: float = 0.0,
                 schedule: Schedule | None = None):
        self.labels = {name: v.tolist() if isinstance(v, Tensor) else list(v) for name, v in labels.items()}
        for name, values in self.labels.items():
            if len(values) != len(images):
                raise ValueError(f"label {name!r} has {len(values)} values for {len(images)} images: give one each")
        self.images, self.shape, self.std = images, tuple(images.shape[1:]), std
        self._centre = images.flatten(1).mean(0)
        self._flat = images.flatten(1) - self._centre  # centred, so that the distances keep their digits in float32
        self._norm2 = self._flat.square().sum(1)
        self.schedule = schedule or Schedule.scaled_linear()

    @property
    def null(self) -> Float[Tensor, "1 n"]:
        return self.cond()

    def cond(self, **labels) -> Float[Tensor, "b n"]:
        """Weight 1 for the images that carry all these labels: ``cond(kind="duck")``, ``cond(view=["front", "back"])``.

        A list gives a row per value; no label at all is the unconditional prior. ValueError where no image qualifies.
        """
        rows = torch.ones(1, len(self.images), device=self.images.device)
        for name, wanted in labels.items():
            if name not in self.labels:
                raise ValueError(f"no label is called {name!r}: there are {sorted(self.labels)}")
            wanted = wanted if isinstance(wanted, list | tuple) else [wanted]
            rows = rows * torch.tensor([[float(v == w) for v in self.labels[name]] for w in wanted]).to(rows)
        if not rows.any(1).all():
            raise ValueError(f"no image carries {labels}: see prior.labels")
        return rows

    def embed(self, texts: list[str], negative: bool = False) -> Float[Tensor, "b n"]:
        """The images whose labels a text names; a kind of label it does not mention is left free, "" leaves all free.

        ValueError for a text that names no label at all, or a combination that no image carries.
        """
        rows = []
        for text in texts:
            words = f" {' '.join(re.findall(r'[a-z]+', text.lower()))} "
            named = {name: value for name, values in self.labels.items()
                     for value in dict.fromkeys(values) if f" {value} " in words}
            if words.strip() and not named:
                known = {name: sorted(set(map(str, values))) for name, values in self.labels.items()}
                raise ValueError(f"{text!r} names none of {known}")
            rows.append(self.cond(**named))
        return torch.cat(rows)

    def posterior(self, x_t: Float[Tensor, "b c h w"], t: Steps, cond: Float[Tensor, "#b n"]) -> Float[Tensor, "b n"]:
        """p(image | x_t, cond), from ||x_t - alpha_t mu||² as one matrix product."""
        if (cond < 0).any() or not (cond > 0).any(1).all():
            raise ValueError("each row of cond needs weights >= 0 with at least one above 0")
        flat = x_t.flatten(1).to(self._flat)
        alpha = self.schedule.alpha(t, flat)
        inner = (flat - alpha * self._centre) @ self._flat.T
        return (cond.to(flat).log() + (alpha * inner - alpha**2 * self._norm2 / 2) / self._v(t, flat)).softmax(1)

    def _v(self, t: Steps, like: Tensor) -> Tensor:
        return (self.schedule.alpha(t, like) * self.std) ** 2 + self.schedule.sigma(t, like) ** 2

    def class_posterior(self, x_t: Float[Tensor, "b c h w"], t: Steps, name: str) -> dict:
        """p(value | x_t) of one label, as {value: (B,)}."""
        r = self.posterior(x_t, t, self.cond())
        values = self.labels[name]
        return {value: r[:, [v == value for v in values]].sum(1) for value in dict.fromkeys(values)}

    def score(self, x_t: Float[Tensor, "b c h w"], t: Steps, cond: Float[Tensor, "#b n"]) -> Sample:
        """The gradient of log p_t(x_t | cond): (alpha_t sum_k r_k mu_k - x_t) / v."""
        mean = self._centre + self.posterior(x_t, t, cond) @ self._flat
        mean = mean.reshape(x_t.shape).to(x_t)
        return (self.schedule.alpha(t, x_t) * mean - x_t) / self._v(t, x_t)

    def _eps(self, x_t: Sample, t: Steps, cond: Tensor) -> Sample:
        return -self.schedule.sigma(t, x_t) * self.score(x_t, t, cond)
