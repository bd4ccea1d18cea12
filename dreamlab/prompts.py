"""What a prior is asked for: a positive condition, a null condition, and text that names the view."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dreamlab.cameras import VIEW_NAMES, Cameras
from dreamlab.checks import Text, check, check_fields


@dataclass(frozen=True)
class Condition:
    """A condition of several tensors, each (B, ...) or (1, ...): a U-Net's "text" with "text_embeds" and "time_ids", say.

    One tensor needs no name: it is a condition as it is, and :func:`cat`, :func:`expand`, :func:`rows` and :func:`mix` take
    either. ValueError for no tensor, for one without a batch axis, and for batches that differ.
    """

    tensors: dict[str, Tensor]

    def __post_init__(self):
        check_fields(self)
        for name, tensor in self.tensors.items():
            check_condition(tensor, f"the condition's {name!r}")
        if len({len(v) for v in self.tensors.values()} - {1}) > 1 or not self.tensors:
            shapes = {name: tuple(v.shape) for name, v in self.tensors.items()}
            raise ValueError(f"the tensors of a condition need one batch axis, of one length or 1, got {shapes}: expand them")

    def __len__(self) -> int:
        return next((n for v in self.tensors.values() if (n := len(v)) != 1), 1)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise ValueError(f"the condition has no tensor {name!r}, it has {sorted(self.tensors)}: build it with that one")
        return self.tensors[name]

    @property
    def device(self) -> torch.device:
        return next(iter(self.tensors.values())).device

    def map(self, function: Callable[[Tensor], Tensor]) -> "Condition":
        """The condition with ``function`` of each tensor."""
        return Condition({name: function(v) for name, v in self.tensors.items()})

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> "Condition":
        """On a device and in a dtype, which integers do not take."""
        return self.map(lambda v: v.to(device=device, dtype=dtype if v.is_floating_point() else None))

    def expand(self, n: int) -> "Condition":
        """n rows, from one or n."""
        return self.map(lambda v: expand(v, n))

    def split(self) -> list["Condition"]:
        """Its rows, as conditions of one."""
        columns = [v.split(1) for v in self.expand(len(self)).tensors.values()]
        return [Condition(dict(zip(self.tensors, row, strict=True))) for row in zip(*columns, strict=True)]

    def mix(self, weights: Float[Tensor, "b k"]) -> "Condition":
        """b mixtures sum_k w_k row_k of its k rows. ValueError for integers, which cannot be mixed."""
        return self.expand(weights.shape[1]).map(lambda v: mix(v, weights))

    @classmethod
    def cat(cls, conditions: Sequence["Condition | Tensor"]) -> "Condition":
        """The rows of all. ValueError unless they have the same names."""
        names = [sorted(c.tensors) if isinstance(c, Condition) else "one tensor without a name" for c in conditions]
        if any(name != names[0] for name in names):
            raise ValueError(f"conditions of different tensors cannot be joined, got {names[0]} and "
                             f"{next(name for name in names if name != names[0])}: build them alike")
        parts = [c.expand(len(c)) for c in conditions]
        return cls({name: torch.cat([c[name] for c in parts]) for name in conditions[0].tensors})


Cond = Tensor | Condition


def cat(conds: Sequence[Cond]) -> Cond:
    """The rows of all these conditions."""
    return Condition.cat(conds) if any(isinstance(c, Condition) for c in conds) else torch.cat(list(conds))


def expand(cond: Cond, n: int) -> Cond:
    """n rows, from one or n. ValueError from any other number."""
    if len(cond) not in (1, n):
        raise ValueError(f"cond has {len(cond)} rows and x_t {n}: give one row, or one per sample")
    return cond.expand(n) if isinstance(cond, Condition) else cond.expand(n, *cond.shape[1:])


def take(cond: Cond, rows: slice) -> Cond:
    """Some rows of a condition that has them all."""
    return cond.map(lambda v: v[rows]) if isinstance(cond, Condition) else cond[rows]


def rows(cond: Cond) -> Sequence[Cond]:
    """Its rows, as conditions of one."""
    return cond.split() if isinstance(cond, Condition) else cond.split(1)


def mix(cond: Cond, weights: Float[Tensor, "b k"]) -> Cond:
    """b mixtures sum_k w_k row_k of k rows. ValueError for integers, which cannot be mixed."""
    if isinstance(cond, Condition):
        return cond.mix(weights)
    if not cond.is_floating_point():
        raise ValueError(f"a condition of {cond.dtype} cannot be mixed linearly: leave out interpolate and perp_neg")
    return torch.einsum("bv,v...->b...", weights.to(cond), cond)


def check_condition(cond: Any, name: str = "cond") -> None:
    """ValueError unless ``cond`` is a :class:`Condition` or a tensor with a batch axis."""
    if isinstance(cond, Condition):
        return
    if not isinstance(cond, Tensor):
        raise ValueError(f"{name} must be a tensor, got {cond!r}: turn text into one with prior.embed([text])")
    if cond.ndim == 0:
        raise ValueError(f"{name} needs a batch axis, got a scalar: use shape (1, ...) to serve the whole batch")


@dataclass
class Prompt:
    """The conditions that the prior understands: text embeddings (B, L, D), labels (B,), weights (B, N), a Condition, ...

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


@dataclass
class ViewPrompts:
    """View-dependent prompting (DreamFusion, arXiv 2209.14988, section 3.2), in the words the toybox knows.

    Called with :class:`Cameras` it gives a Prompt with a row per camera: ``"{text}, front view"``, side or back by
    azimuth; ``views=False`` keeps the text as it is. With ``interpolate`` the embeddings of front, side and back are mixed
    linearly in between, at azimuths 0, 90 and 180 alone they are pure (LucidDreamer). ``perp_neg`` does so too, and names the
    views to stay away from, with the weights of :func:`perp_weights`. ``null`` and ``negative`` are texts (LucidDreamer
    passes its negative prompt as ``null``). ``prior`` needs only ``embed(texts, negative) -> (len(texts), ...)``, where
    ``negative`` is true of these two; each distinct text is embedded once. One that is told where cameras stand also has
    ``posed(cond, cameras)``. ValueError for ``interpolate`` or ``perp_neg`` without ``views``.
    """

    prior: Any
    text: Text
    null: Text = ""
    negative: Text | None = None
    views: bool = True
    interpolate: bool = False
    perp_neg: bool = False
    _cache: dict = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self):
        check_fields(self)
        check("ViewPrompts.prior.embed", getattr(self.prior, "embed", None), Callable)
        for name in ("interpolate", "perp_neg"):
            if getattr(self, name) and not self.views:
                raise ValueError(f"ViewPrompts.{name} moves between the views, and views is False: set views=True or leave "
                                 f"{name} out")

    def texts(self, cameras: Cameras) -> list[str]:
        """The positive text of each camera."""
        return [f"{self.text}, {name} view" if self.views else self.text for name in cameras.view_names()]

    def embed(self, texts: list[str], negative: bool = False) -> Cond:
        """The rows for these texts, from the cache where they have been asked for before."""
        new = [text for text in dict.fromkeys(texts) if (text, negative) not in self._cache]
        if new:
            found = rows(self.prior.embed(new, negative))
            self._cache.update({(text, negative): row for text, row in zip(new, found, strict=True)})
        return cat([self._cache[text, negative] for text in texts])

    def __call__(self, cameras: Cameras) -> Prompt:
        posed = getattr(self.prior, "posed", lambda cond, cameras: cond)
        negative = None if self.negative is None else posed(self.embed([self.negative], negative=True), cameras)
        null = posed(self.embed([self.null], negative=True), cameras)
        if not (self.interpolate or self.perp_neg):
            return Prompt(posed(self.embed(self.texts(cameras)), cameras), null, negative)
        names = self.embed([f"{self.text}, {name} view" for name in VIEW_NAMES])
        away = cameras.view_angles().to(null.device)
        weights = torch.stack([(1 - away / 90).clamp(min=0), 1 - (away / 90 - 1).abs(), (away / 90 - 1).clamp(min=0)], -1)
        perp = tuple((posed(row, cameras), weight)
                     for row, weight in zip(rows(names)[:2], perp_weights(away), strict=True))
        return Prompt(posed(mix(names, weights), cameras), null, negative, perp if self.perp_neg else ())


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
