"""What every prior is: a noise predictor with a schedule, a condition, and the crossing from rendered images."""
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, get_type_hints

import torch

from dreamlab.cameras import Cameras, Orbit
from dreamlab.checks import Count, Name, Positive, Range, Timestep, check, check_fields, finite
from dreamlab.files import writing
from dreamlab.noise import Schedule, ddim_sample, randn
from dreamlab.prompts import Cond, Prompt, cat, check_condition, expand, take
from dreamlab.threads import each, pieces
from dreamlab.types import Images, Sample, Steps

Guidance = Annotated[float, Range(1)]  # diffusers' s, 1 for none
MEND = "load it with dtype=torch.float32, where half precision may have overflowed, or take other weights"
FILE, VIEWS = "dreamlab.json", ("elevation_deg", "radius", "fov_deg")


@dataclass(frozen=True)
class Card:
    """What a prior's folder says of it in ``dreamlab.json``, beside ``model_index.json``; None where it does not say.

    ``world``       "toybox" if it was trained on the toybox.
    ``pixels``      the side of the pictures it was trained on.
    ``guidance``    diffusers' s at which its samples look best.
    ``critic_rate`` of LoRA beside it.
    ``views``       the cameras it was trained on, of which a file holds :data:`VIEWS`.
    ``base``        the prior that the folder's adapter belongs to, which has all other weights.
    ``highest``     the largest t it was trained on, where that is not the last.
    ``joined``      how many views of one object it sees together, side by side in a batch (a multi-view prior).
    ``relative``    whether it is told their cameras as if the first of them stood at the front, and so not where that is.
    """

    world: str | None = None
    pixels: Count | None = None
    guidance: Guidance | None = None
    critic_rate: Positive | None = None
    views: Orbit | None = None
    base: Name | None = None
    highest: Timestep | None = None
    joined: Count | None = None
    relative: bool | None = None

    def __post_init__(self):
        check_fields(self)

    @classmethod
    def read(cls, folder: Path | str) -> "Card":
        """The card of a folder, an empty one where there is none. ValueError that names the file, the key and the value."""
        if not os.path.exists(file := Path(folder) / FILE):  # False where a name is too long
            return cls()
        try:
            return cls(**_table(json.loads(file.read_text()), cls, [f.name for f in fields(cls)]))
        except (ValueError, OSError, RecursionError) as error:  # JSON's too
            raise ValueError(f"{file} cannot be used, mend or remove it: {error}") from error

    def write(self, folder: Path | str) -> None:
        """To a folder, whole or not at all. OSError where that fails."""
        said = {key: value for key, value in vars(self).items() if value is not None}
        if self.views:
            said["views"] = {key: getattr(self.views, key) for key in VIEWS}
        with writing(Path(folder) / FILE) as part:
            part.write_text(json.dumps(said, indent=1) + "\n")


def _table(said, kind: type, known: Sequence[str]) -> dict:
    """A table of JSON as fields of ``kind``, of which it may hold those that are ``known``; ValueError for anything else."""
    if not isinstance(said, dict):
        raise ValueError(f"it must be a table of {', '.join(known)}, got {said!r:.60}")
    if unknown := said.keys() - set(known):
        raise ValueError(f"there is no {min(unknown)!r} (here {said[min(unknown)]!r:.60}); there is: {', '.join(known)}")
    table = {key: tuple(value) if isinstance(value, list) else value for key, value in said.items()}
    hints = get_type_hints(kind, include_extras=True)
    if isinstance(views := table.get("views"), dict):
        table["views"] = Orbit(**_table(views, Orbit, VIEWS))
    for key, value in table.items():
        check(key, value, hints[key])
    return table


def guide(positive: Sample, null: Sample, s: float) -> Sample:
    """Classifier-free guidance (arXiv 2207.12598) as in diffusers: null + s (positive - null), so s = 1 means none.

    DreamMapping (Eq. 4), DreamFlow and threestudio without Perp-Neg write positive + s' (positive - null): s = 1 + s'.
    """
    return null + s * (positive - null)


class Prior(ABC):
    """A subclass sets ``schedule`` and ``shape`` (of one sample: (C, h, w), or (D,) for points) and writes ``_eps``.

    A condition is any tensor with a batch axis that the subclass understands, or a ``Condition`` of several. Gradients are
    left alone here: rules call a prior under ``no_grad``.
    """

    schedule: Schedule
    shape: tuple[int, ...]
    prediction: str = "epsilon"  # what ``_eps`` turns into noise; "v_prediction" for a velocity
    joined: int = 1  # how many rows are views of one object, which it sees together
    card: Card = Card()

    @property
    @abstractmethod
    def null(self) -> Cond:
        """The condition (1, ...) that says nothing: the empty prompt."""

    @property
    def device(self) -> torch.device:
        return self.null.device

    @abstractmethod
    def _eps(self, x_t: Sample, t: Steps, cond: Cond) -> Sample:
        """The predicted noise for x_t (B, ...), t (B,), cond (B, ...)."""

    def eps(self, x_t: Sample, t: Steps, *conds) -> tuple[Sample, ...]:
        """One predicted noise per condition, from one batched call. Always a tuple: ``(eps_y,) = eps(x_t, t, y)``. Inside a
        step the rows of the batch come in pieces (:mod:`dreamlab.threads`).

        Each cond is (B, ...), or (1, ...) for the whole batch. ValueError for text, a wrong batch, a non-finite x_t, or a
        prediction that is not finite, which names the prior.
        """
        n = len(x_t)
        if n % self.joined:
            raise ValueError(f"this prior sees {self.joined} views of one object together, got {n} rows: give a multiple of "
                             f"{self.joined}, views of one object side by side")
        if tuple(x_t.shape[1:]) != tuple(self.shape):
            raise ValueError(f"x_t must have shape (B, {', '.join(map(str, self.shape))}), got {tuple(x_t.shape)}: give "
                             "samples of this prior")
        finite(x_t, "x_t has", "give finite ones; where a rule or a sampler made them, lower the guidance")
        for cond in conds:
            check_condition(cond)
        k, cond = len(conds), cat([expand(c, n) for c in conds])
        x_t, t = x_t.repeat(k, *[1] * (x_t.ndim - 1)), t.repeat(k)
        eps = torch.cat(each(lambda rows: self._eps(x_t[rows], t[rows], take(cond, rows)), pieces(k * n, self.joined)))
        return finite(eps, f"from finite x_t the prior ({type(self).__name__}) predicts", MEND).split(n)

    def predict(self, x_t: Sample, t: Steps, prompt: Prompt, *more) -> tuple[Sample, ...]:
        """eps_y, eps_null, and what is predicted under ``more`` conditions, from one batched call.

        Where the prompt has ``perp``, eps_y is moved off those conditions by Perp-Neg (arXiv 2304.04968, Algorithm 1):
        with e = eps_y - eps_null, e_i = eps_i - eps_null and w_i <= 0 it becomes eps_y + sum_i w_i (e_i - e <e_i, e> / <e, e>):
        only what is perpendicular to e is taken off, so that guidance towards y loses nothing.
        """
        eps_y, eps_null, *rest = self.eps(x_t, t, prompt.positive, prompt.null, *more, *(cond for cond, _ in prompt.perp))
        e = (eps_y - eps_null).flatten(1)
        for eps_i, (_, weight) in zip(rest[len(more):], prompt.perp, strict=True):
            e_i = (eps_i - eps_null).flatten(1)
            across = e_i - e * ((e_i * e).sum(1, keepdim=True) / (e * e).sum(1, keepdim=True).clamp(min=1e-12))
            eps_y = eps_y + (weight.to(e)[:, None] * across).view_as(eps_y)
        return eps_y, eps_null, *rest[:len(more)]

    def guided(self, x_t: Sample, t: Steps, prompt: Prompt, guidance: float = 1.0) -> Sample:
        """The noise predicted with guidance (diffusers' s)."""
        return guide(*self.predict(x_t, t, prompt), guidance)

    def denoised(self, x_t: Sample, t: Steps, cond: Cond) -> Sample:
        """The posterior mean E[x | x_t, cond] = (x_t - sigma_t eps) / alpha_t."""
        return self.schedule.x0(x_t, *self.eps(x_t, t, cond), t)

    def add_noise(self, x: Sample, eps: Sample, t: Steps) -> Sample:
        """x_t = alpha_t x + sigma_t eps."""
        return self.schedule.add_noise(x, eps, t)

    @torch.no_grad()
    def sample(self, prompt: Prompt, n: int, generator: torch.Generator, guidance: float = 1.0, steps: int = 25,
               offset: int = 0) -> Sample:
        """n samples by DDIM; ``offset`` is diffusers' steps_offset (1 for Stable Diffusion). Its end is the schedule's."""
        noise = randn((n, *self.shape), generator).to(self.device)
        return ddim_sample(lambda x_t, t: self.guided(x_t, t, prompt, guidance), noise, self.schedule, steps, offset)

    def encode(self, images: Images) -> Sample:
        """The one crossing: rendered (B, H, W, 3) in [0, 1] -> (B, 3, H, W) in [-1, 1]; a latent prior goes on."""
        if len(self.shape) != 3:
            raise ValueError(f"this prior is over samples of shape {tuple(self.shape)}, not over images")
        return images.movedim(-1, 1) * 2 - 1

    def decode(self, x: Sample) -> Images:
        """The way back: (B, 3, H, W) in [-1, 1] -> (B, H, W, 3), clamped to [0, 1]."""
        return ((x + 1) / 2).clamp(0, 1).movedim(1, -1)

    def posed(self, cond: Cond, cameras: Cameras) -> Cond:
        """The condition of each camera: as it is, but for a prior that is told where the cameras stand."""
        return cond

    def embed(self, texts: list[str], negative: bool = False) -> Cond:
        """Texts -> conditions, one row each. ``negative``: of what to push away from, as null and negative prompts are, which
        means nothing to most priors. ValueError where the prior does not read text."""
        raise ValueError(f"{type(self).__name__} does not read text, got {texts!r}: build its condition from labels")
