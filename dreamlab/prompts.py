"""What a prior is asked for: a positive condition, a null condition, and text that names the view."""
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dreamlab.cameras import VIEW_NAMES, Cameras


@dataclass
class Prompt:
    """The conditions that the prior understands: text embeddings (B, L, D), labels (B,), weights (B, N), ...

    ``positive`` is y, ``null`` is what guidance pushes away from, ``negative`` what CSD and NFSD take off besides (by
    default the null condition), ``perp`` pairs of a condition and a weight (B,) for Perp-Neg (:meth:`Prior.predict`). The
    first axis is the batch; one row serves the whole batch. ValueError where text is given instead of its embedding.
    """

    positive: Any
    null: Any
    negative: Any = None
    perp: tuple[tuple[Any, Tensor], ...] = ()

    def __post_init__(self):
        if self.negative is None:
            self.negative = self.null
        for name in ("positive", "null", "negative"):
            check_condition(getattr(self, name), name)


def check_condition(cond: Any, name: str = "cond") -> None:
    """ValueError unless ``cond`` is a tensor with a batch axis."""
    if not isinstance(cond, Tensor):
        raise ValueError(f"{name} must be a tensor, got {cond!r}: turn text into one with prior.embed([text])")
    if cond.ndim == 0:
        raise ValueError(f"{name} needs a batch axis, got a scalar: use shape (1, ...) to serve the whole batch")


@dataclass
class ViewPrompts:
    """View-dependent prompting (DreamFusion, arXiv 2209.14988, section 3.2), in the words the toybox knows.

    Called with :class:`Cameras` it gives a Prompt with a row per camera: ``"{text}, front view"``, side or back by
    azimuth; ``views=False`` keeps the text as it is. With ``interpolate`` the embeddings of front, side and back are mixed
    linearly in between, at azimuths 0, 90 and 180 alone they are pure (LucidDreamer). ``perp_neg`` does so too, and names the
    views to stay away from, with the weights of :func:`perp_weights`. ``null`` and ``negative`` are texts (LucidDreamer
    passes its negative prompt as ``null``). ``prior`` needs only ``embed(texts) -> (len(texts), ...)``; each distinct text is
    embedded once.
    """

    prior: Any
    text: str
    null: str = ""
    negative: str | None = None
    views: bool = True
    interpolate: bool = False
    perp_neg: bool = False
    _cache: dict = field(default_factory=dict, init=False, repr=False)

    def texts(self, cameras: Cameras) -> list[str]:
        """The positive text of each camera."""
        return [f"{self.text}, {name} view" if self.views else self.text for name in cameras.view_names()]

    def embed(self, texts: list[str]) -> Tensor:
        """The rows for these texts, from the cache where they have been asked for before."""
        new = [text for text in dict.fromkeys(texts) if text not in self._cache]
        if new:
            self._cache.update(zip(new, self.prior.embed(new).split(1), strict=True))
        return torch.cat([self._cache[text] for text in texts])

    def __call__(self, cameras: Cameras) -> Prompt:
        negative = None if self.negative is None else self.embed([self.negative])
        null = self.embed([self.null])
        if not (self.views and (self.interpolate or self.perp_neg)):
            return Prompt(self.embed(self.texts(cameras)), null, negative)
        names = self.embed([f"{self.text}, {name} view" for name in VIEW_NAMES])
        away = cameras.view_angles().to(null.device)
        mix = torch.stack([(1 - away / 90).clamp(min=0), 1 - (away / 90 - 1).abs(), (away / 90 - 1).clamp(min=0)], -1)
        positive = torch.einsum("bv,v...->b...", mix.to(names), names)
        perp = tuple((name[None], weight) for name, weight in zip(names[:2], perp_weights(away), strict=True))
        return Prompt(positive, null, negative, perp if self.perp_neg else ())


def perp_weights(away: Float[Tensor, "b"]) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """Perp-Neg's weights, <= 0, of "front view" and "side view" for cameras ``away`` degrees from the front, in [0, 180].

    Between front and side, r = 1 - away / 90: front -2 exp(-2 r), or 0 if r > 0.8; side -2 exp(-10 (1 - r)), or 0 if r < 0.2.
    Between side and back, r = 2 - away / 90: front -2; side -exp(-10 r), or 0 if r > 0.8. (arXiv 2304.04968 with the
    numbers of stable-dreamfusion, which LucidDreamer uses for animals and heads.)
    """
    ahead, r = away < 90, torch.where(away < 90, 1 - away / 90, 2 - away / 90)
    front = torch.where(ahead, torch.where(r > 0.8, 0.0, -2 * torch.exp(-2 * r)), -2.0)
    side = torch.where(ahead, torch.where(r < 0.2, 0.0, -2 * torch.exp(-10 * (1 - r))),
                       torch.where(r > 0.8, 0.0, -torch.exp(-10 * r)))
    return front, side
