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
from dreamlab.checks import Positive, check
from dreamlab.learner import Learner, select, under
from dreamlab.noise import per_sample, stream
from dreamlab.priors.base import Guidance, Prior, guide
from dreamlab.prompts import Prompt
from dreamlab.rules.base import Cutoff, Residual, Rule
from dreamlab.rules.operators import OPERATORS
from dreamlab.schedules import dca_lambda, noise_to_signal, one
from dreamlab.threads import later
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
    guidance: Guidance = 7.5
    lr: Positive = 0.01
    cutoff: Cutoff = 300
    dca: bool = True
    weight: Callable = noise_to_signal

    def __post_init__(self):
        super().__post_init__()
        self.learner = Learner(self.operator, self.lr)

    @classmethod
    def for_prior(cls, prior: Prior, *, seed: int = 0, operator: Callable | None = None, **settings) -> "VDM":
        """With the operator that ``operator(shape, generator)`` makes, or with one that is made already.

        By default a U-Lite; on points (D,), which have no sides to halve, a linear one.
        """
        check("operator", operator, Callable | None)
        operator = operator or OPERATORS["ULite" if len(prior.shape) == 3 else "LinearOperator"]
        if not isinstance(operator, nn.Module):
            operator = operator(prior.shape, stream(seed, "operator"))
        return cls(operator, **settings)

    @torch.no_grad()
    def __call__(self, prior: Prior, x: Sample, t: Steps, eps: Sample, prompt: Prompt,
                 camera: Cameras | None = None) -> Residual:
        eps_y, eps_null = prior.predict(prior.add_noise(x, eps, t), t, prompt)
        variational, loss = self.fit(eps_y, eps)
        lam = dca_lambda(prior.schedule, t, self.cutoff) if self.dca else one(prior.schedule, t)
        direction = guide(eps_y, eps_null, self.guidance) - per_sample(lam, x) * variational
        parts = {"conditional": eps_y, "unconditional": eps_null, "noise": eps, "variational": variational}
        return self.weigh(prior, t, direction, parts, loss)

    @torch.enable_grad()
    def fit(self, eps_y: Sample, eps: Sample) -> tuple[Sample, Float[Tensor, ""]]:
        """M(eps_y), detached and from before the step, and L_op = mean (M(eps_y) - eps)² (Eq. 17), which Adam descends.

        ``eps`` must be the noise that was added. M follows the tensor's device and runs in float32, in train mode:
        BatchNorm uses this batch.
        """
        self.learner.to(eps_y.device)
        predicted = self.operator.train()(eps_y.detach().float())
        loss = (predicted - eps.float()).square().mean()
        later(lambda: self.learner.step(loss))
        return predicted.detach().to(eps_y), loss.detach()

    def state_dict(self) -> dict[str, Tensor]:
        """``operator.NAME`` and Adam's ``operator.adam.NAME.{step, exp_avg, exp_avg_sq}``, copied."""
        return under("operator", self.learner.state_dict())

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue where :meth:`state_dict` was taken. ValueError where the operator is another one."""
        self.learner.load_state_dict(select(state, "operator"))
