"""What every distillation rule gives back, and the one loss that turns it into a gradient."""
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from dreamlab.types import Sample


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

    Rules that learn override all of this; the state is a flat dict of tensors, so a checkpoint holds it as safetensors.
    """

    @classmethod
    def for_shape(cls, shape: tuple[int, ...], **settings) -> "Rule":
        """The rule with its defaults for samples of this shape."""
        return cls(**settings)

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        if state:
            raise ValueError(f"{type(self).__name__} has no state, got {sorted(state)}: a checkpoint of another rule")
