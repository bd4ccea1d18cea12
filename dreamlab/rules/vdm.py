"""Variational distribution mapping (VDM) with distribution coefficient annealing (DCA): DreamMapping, arXiv 2409.05099.

VDM reads a render as a degraded sample of the prior and learns the degradation: an operator M_psi maps the prior's
prediction eps_y to the noise eps that was added. Fitting M needs no gradient through the U-Net, whose two rows a sample
are those of SDS.
"""
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dreamlab.cameras import Cameras
from dreamlab.noise import per_sample
from dreamlab.priors.base import Prior, guide
from dreamlab.prompts import Prompt
from dreamlab.rules.base import Residual, Rule
from dreamlab.rules.operators import ULite
from dreamlab.schedules import dca_lambda, noise_to_signal, one
from dreamlab.types import Sample, Steps


@dataclass
class VDM(Rule):
    """w(t) [eps_y - lambda_t M(eps_y) + (s - 1) (eps_y - eps_null)], M fitted by ||M(eps_y) - eps||² (Eq. 17 to 19).

    Two limits: with M the identity and lambda = 1 only the guidance term is left; with M recovering eps it is SDS. VDM
    lives between them, on M's limited capacity. A call takes one Adam step on M; the residual uses the output before.

    ``guidance``  diffusers' s >= 1. The paper's 7.5, read in its code base's convention; as its Eq. 4 writes it, 6.5.
    ``lr``        Adam's rate for M (section 4.2); large, so that M tracks the renders.
    ``cutoff``    DCA: lambda_t = 1 - abar_t at t <= cutoff, else 1 (Eq. 18). ``dca=False`` keeps lambda at 1.
    ``weight``    w(schedule, t). The paper gives none; LucidDreamer, its code base, uses sigma_t / alpha_t.
    """

    operator: nn.Module
    guidance: float = 7.5
    lr: float = 0.01
    cutoff: int = 300
    dca: bool = True
    weight: Callable = noise_to_signal

    def __post_init__(self):
        if not self.guidance >= 1:
            raise ValueError(f"guidance must be >= 1 (diffusers' s, 1 = none), got {self.guidance:g}")
        parameters = list(self.operator.parameters())  # none in nn.Identity(), one of the limits
        self.optimizer = torch.optim.Adam(parameters, lr=self.lr) if parameters else None

    @classmethod
    def for_shape(cls, shape: tuple[int, ...], **settings) -> "VDM":
        """VDM with a U-Lite that suits samples of this shape, (C, h, w)."""
        return cls(ULite.for_shape(shape), **settings)

    @torch.no_grad()
    def __call__(self, prior: Prior, x: Sample, t: Steps, eps: Sample, prompt: Prompt,
                 camera: Cameras | None = None) -> Residual:
        eps_y, eps_null = prior.eps(prior.add_noise(x, eps, t), t, prompt.positive, prompt.null)
        variational, loss = self.fit(eps_y, eps)
        w, schedule = self.weight(prior.schedule, t), prior.schedule
        lam = dca_lambda(schedule, t, self.cutoff) if self.dca else one(schedule, t)
        value = per_sample(w, x) * (guide(eps_y, eps_null, self.guidance) - per_sample(lam, x) * variational)
        parts = {"conditional": eps_y, "unconditional": eps_null, "noise": eps, "variational": variational}
        return Residual(value, w, parts, loss)

    def _to(self, device: torch.device) -> None:
        self.operator.to(device)
        for moments in self.optimizer.state.values() if self.optimizer else ():
            moments.update({k: v.to(device) for k, v in moments.items() if k != "step"})

    @torch.enable_grad()
    def fit(self, eps_y: Sample, eps: Sample) -> tuple[Sample, Float[Tensor, ""]]:
        """M(eps_y), detached and from before the step, and L_op = mean (M(eps_y) - eps)² (Eq. 17), which Adam descends.

        ``eps`` must be the noise that was added. M follows the tensor's device and runs in float32, in train mode:
        BatchNorm uses this batch.
        """
        self._to(eps_y.device)
        predicted = self.operator.train()(eps_y.detach().float())
        loss = (predicted - eps.float()).square().mean()
        if self.optimizer:
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return predicted.detach().to(eps_y), loss.detach()

    def state_dict(self) -> dict[str, Tensor]:
        """``operator.NAME`` and Adam's ``adam.NAME.{step, exp_avg, exp_avg_sq}``, copied."""
        state = {f"operator.{name}": v.detach().clone() for name, v in self.operator.state_dict().items()}
        for name, p in self.operator.named_parameters():
            moments = self.optimizer.state.get(p, {})
            state.update({f"adam.{name}.{key}": v.detach().clone() for key, v in moments.items()})
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue where :meth:`state_dict` was taken. ValueError where the operator is another one."""
        operator = {k.removeprefix("operator."): v for k, v in state.items() if k.startswith("operator.")}
        mine = {k: v.shape for k, v in self.operator.state_dict().items()}
        if mine != {k: v.shape for k, v in operator.items()}:
            raise ValueError(f"the state's operator has {len(operator)} tensors, not the {len(mine)} of this "
                             f"{type(self.operator).__name__} with their shapes: build the operator it was saved from")
        self.operator.load_state_dict(operator)
        for name, p in self.operator.named_parameters():
            keys = {k: f"adam.{name}.{k}" for k in ("step", "exp_avg", "exp_avg_sq")}
            self.optimizer.state.pop(p, None)
            if keys["step"] in state:
                self.optimizer.state[p] = {k: state[key].clone().cpu() for k, key in keys.items()}
