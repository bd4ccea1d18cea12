"""What learns beside a scene: a module and the AdamW that fits it, with a state that a checkpoint can hold."""
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from dreamlab.checks import Positive, Range, check_fields
from dreamlab.threads import gradients

# Of the loss while it is differentiated: in fp16 the gradients of a mean would vanish. A power of two, so exact elsewhere
SCALE = 2.0**12


Beta = Annotated[float, Range(0, 1, "high")]


@dataclass(frozen=True)
class Adam:
    """torch's Adam for a scene's leaves; the rates are the stage's, step by step."""

    betas: tuple[Beta, Beta] = (0.9, 0.99)
    eps: Positive = 1e-15

    def __post_init__(self):
        check_fields(self)

    def __call__(self, groups: list[dict]) -> torch.optim.Adam:
        return torch.optim.Adam(groups, lr=0.0, betas=self.betas, eps=self.eps)


class Learner:
    """The trainable parameters of ``module`` and their optimiser: AdamW, which is Adam at ``weight_decay`` 0.

    Every rule and critic that learns holds one. ``loss(...)`` is theirs; ``step(loss)`` descends it once.
    """

    def __init__(self, module: nn.Module, lr: float, weight_decay: float = 0.0):
        self.module = module
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        # nn.Identity() has no parameters, and is one of the limits of VDM
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr, weight_decay=weight_decay) if self.parameters else None

    def to(self, device: torch.device) -> None:
        """Module and moments, moved to ``device``, unless they are there."""
        if all(p.device == device for p in self.module.parameters()):
            return
        self.module.to(device)
        for moments in self.optimizer.state.values() if self.optimizer else ():
            moments.update({k: v.to(device) for k, v in moments.items() if k != "step"})

    def step(self, *losses: Tensor) -> Tensor:
        """One step down the sum of ``losses``, of the pieces of a batch; it comes back detached. FloatingPointError, and no
        step, if a gradient is not finite."""
        if self.optimizer:
            leaves = list(self.parameters.values())
            for p, g in zip(leaves, gradients(lambda loss: SCALE * loss, losses, leaves), strict=True):
                p.grad = None if g is None else g / SCALE
            found = [p.grad for p in leaves if p.grad is not None]
            if found and not torch.stack(torch._foreach_norm(found)).isfinite().all():
                raise FloatingPointError(f"the gradient of {type(self.module).__name__}'s loss is not finite: lower its rate "
                                         "or the guidance")
            self.optimizer.step()
        return sum(loss.detach() for loss in losses)

    def state_dict(self) -> dict[str, Tensor]:
        """``NAME`` and Adam's ``adam.NAME.{step, exp_avg, exp_avg_sq}``, copied."""
        state = {name: p.detach().clone() for name, p in self.parameters.items()}
        for name, p in self.parameters.items():
            state.update({f"adam.{name}.{k}": v.detach().clone() for k, v in self.optimizer.state.get(p, {}).items()})
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue where :meth:`state_dict` was taken. ValueError where the module is another one, or a moment misshapen."""
        saved = {k: v for k, v in state.items() if not k.startswith("adam.")}
        odd = [k for name, p in self.parameters.items() for k in (f"adam.{name}.exp_avg", f"adam.{name}.exp_avg_sq")
               if k in state and state[k].shape != p.shape]
        if odd:
            raise ValueError(f"{odd[0]} has the shape {tuple(state[odd[0]].shape)}, unlike its parameter: build the module "
                             "it was saved from")
        if {k: v.shape for k, v in saved.items()} != {k: p.shape for k, p in self.parameters.items()}:
            raise ValueError(f"the state has {len(saved)} tensors, not the {len(self.parameters)} of this "
                             f"{type(self.module).__name__} with their shapes: build the module it was saved from")
        for name, p in self.parameters.items():
            p.data.copy_(saved[name])
            self.optimizer.state.pop(p, None)
            moments = {k: f"adam.{name}.{k}" for k in ("step", "exp_avg", "exp_avg_sq")}
            if moments["step"] in state:
                self.optimizer.state[p] = {k: state[key].clone().cpu() if k == "step" else state[key].clone().to(p.device)
                                           for k, key in moments.items()}


def select(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries under ``prefix.``, without it."""
    return {k.removeprefix(f"{prefix}."): v for k, v in state.items() if k.startswith(f"{prefix}.")}


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same entries, named ``prefix.NAME``."""
    return {f"{prefix}.{k}": v for k, v in state.items()}
