"""The operators M_psi of DreamMapping's ablation (arXiv 2409.05099, Fig. 7), for samples of any shape. The paper's: ulite.py.

No text, no timestep: the predicted noise is all they see.
"""
import torch
from torch import nn

from dreamlab.rules.ulite import ULite
from dreamlab.types import Sample


class LinearOperator(nn.Module):
    """DreamMapping's linear ablation (Fig. 7): one learnable tensor of a sample's shape, times eps; at first ones."""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(shape))

    def forward(self, x: Sample) -> Sample:
        return self.scale * x


class NoisyOperator(nn.Module):
    """An operator with observation noise, the other ablation of Fig. 7: M(eps) + n, n learnable and at first 0."""

    def __init__(self, operator: nn.Module, shape: tuple[int, ...]):
        super().__init__()
        self.operator, self.noise = operator, nn.Parameter(torch.zeros(shape))

    def forward(self, x: Sample) -> Sample:
        return self.operator(x) + self.noise


def linear(shape: tuple[int, ...], generator: torch.Generator | None = None) -> LinearOperator:
    return LinearOperator(shape)


def noisy(shape: tuple[int, ...], generator: torch.Generator | None = None) -> NoisyOperator:
    return NoisyOperator(ULite.for_shape(shape, generator), shape)


# Makers: (shape, generator) -> operator
OPERATORS = {"ULite": ULite.for_shape, "LinearOperator": linear, "NoisyOperator": noisy}
