"""What every distillation rule gives back, and the one loss that turns it into a gradient."""
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, get_type_hints

from jaxtyping import Float
from torch import Tensor

from dreamlab.checks import Range, check_fields, fits, shown
from dreamlab.noise import per_sample
from dreamlab.priors.base import Prior
from dreamlab.types import Sample, Steps

Cutoff = Annotated[int, Range(-1, 10**5)]  # a timestep, -1 for below them all


@dataclass
class Residual:
    """The direction x descends, and what it is made of.

    ``value`` is the whole residual, w(t) included; ``weight`` is that w(t) (B,). ``parts`` keeps the unweighted noise
    predictions by name: conditional, unconditional, noise, variational, ... ``loss`` is a learning rule's own.
    """

    value: Sample
    weight: Float[Tensor, "b"]
    parts: dict[str, Tensor] = field(default_factory=dict)
    loss: Float[Tensor, ""] | None = None


def distill(x: Sample, residual: Residual) -> Float[Tensor, ""]:
    """A scalar whose gradient with respect to x *is* ``residual.value``: <sg(residual), x>, summed over the batch.

    The predictor's Jacobian is left out, as in DreamFusion (arXiv 2209.14988, Eq. 3). The number itself means nothing;
    plot the norm of the residual. ValueError where the shapes differ.
    """
    if x.shape != residual.value.shape:
        raise ValueError(f"x has shape {tuple(x.shape)} and its residual {tuple(residual.value.shape)}: give one x")
    return (residual.value.detach() * x).sum()


class Rule:
    """``rule(prior, x, t, eps, prompt, camera) -> Residual``. A dataclass: its fields are the hyper-parameters.

    ``weight`` is w(schedule, t). Where there is a ``guidance`` s it is diffusers'. ``reads_negative``, ``reads_perp``: whether
    the prompt's counts for it. ``timesteps``: those that the rule must be run at, None: any. Rules that learn override the
    state, a flat dict of copies that a checkpoint holds as safetensors. ValueError for a field outside its range.
    """

    weight: Callable
    reads_negative = False
    reads_perp = True
    timesteps = None

    def __post_init__(self):
        kind = get_type_hints(type(self), include_extras=True).get("guidance")
        if hasattr(kind, "__metadata__") and not fits(s := self.guidance, kind):
            low, name = kind.__metadata__[0].low, type(self).__name__
            raise ValueError(f"guidance must be >= {low:g} in {name} (diffusers' s, 1 = none) and finite, got {shown(s)}: "
                             "change it; a paper that multiplies (eps_y - eps_null) on top of eps_y means s - 1")
        check_fields(self)

    @classmethod
    def for_prior(cls, prior: Prior, *, seed: int = 0, **settings) -> "Rule":
        """The rule with its defaults, and whatever it needs built to suit this prior; ``seed`` makes what of that is random."""
        return cls(**settings)

    def weigh(self, prior: Prior, t: Steps, direction: Sample, parts: dict[str, Tensor],
              loss: Tensor | None = None) -> Residual:
        """The residual w(t) * direction."""
        w = self.weight(prior.schedule, t)
        return Residual(per_sample(w, direction) * direction, w, parts, loss)

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        if state:
            raise ValueError(f"{type(self).__name__} has no state, got {sorted(state)}: a checkpoint of another rule")
