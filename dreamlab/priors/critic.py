"""Critics: the score of what is being rendered, as a noise predictor eps_phi(x_t, t, y, c) beside the prior's.

Three of them: LoRA on the prior's own UNet or another (VSD, arXiv 2305.16213), a learnable text embedding (LODS, arXiv
2312.04820), and the exact one, closed form, which is the oracle of the laws. A rule calls ``eps`` without gradients and
``fit`` once a step.
"""
import copy
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dreamlab.cameras import Cameras
from dreamlab.checks import Count, Name, NotNegative, Positive, check
from dreamlab.learner import Learner, select, under
from dreamlab.noise import randn, stream, subseed
from dreamlab.priors.base import Prior
from dreamlab.priors.diffusion import DiffusionPrior, unet_eps
from dreamlab.priors.mixture import GaussianMixturePrior
from dreamlab.prompts import Cond, Condition, expand, take
from dreamlab.threads import each, pieces
from dreamlab.types import Sample, Steps


class Critic(ABC):
    """``prior`` is the one it is compared with. ``fits`` counts the fits, and with ``seed`` determines what each draws."""

    def __init__(self, prior: Prior, seed: int = 0):
        self.prior, self.seed, self.fits = prior, seed, 0

    @abstractmethod
    def eps(self, x_t: Sample, t: Steps, cond: Cond, camera: Cameras | None = None) -> Sample:
        """The noise predicted for a noised render."""

    @abstractmethod
    def fit(self, x: Sample, t: Steps, eps: Sample, cond: Cond, camera: Cameras | None = None,
            pull: float = 0.0) -> Float[Tensor, ""]:
        """One optimiser step towards the noise in add_noise(x, eps, t); returns the loss before it.

        ``pull`` > -1 is ASD's gamma: ||eps_phi - eps||² + gamma ||eps_phi - eps_y||² has, up to a constant, the gradient of
        (1 + gamma) ||eps_phi - target||² with target = (eps + gamma eps_y) / (1 + gamma). eps_y is the frozen prior's.
        """

    def draw(self, x: Sample) -> tuple[Steps, Sample]:
        """t ~ U[0, T) and noise for the next fit, from the stream "critic draws"."""
        generator = stream(self.seed, "critic draws", self.fits)
        t = torch.randint(len(self.prior.schedule), (len(x),), generator=generator)
        return t.to(x.device), randn(tuple(x.shape), generator).to(x)

    def target(self, x_t: Sample, t: Steps, eps: Sample, cond: Cond, pull: float) -> Sample:
        """What ``pull`` makes of eps."""
        if not pull > -1:
            raise ValueError(f"pull must be > -1, got {pull:g}: at -1 the loss has no minimum")
        if pull == 0:
            return eps
        eps_y, = self.prior.eps(x_t, t, cond)
        return (eps + pull * eps_y) / (1 + pull)

    def state_dict(self) -> dict[str, Tensor]:
        return {"fits": torch.tensor(self.fits)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.fits = int(state["fits"])


class ExactCritic(Critic):
    """The renders x_1 ... x_N of the last ``fit``, each a Gaussian of width ``std``, noised: a mixture, in closed form.

    With one render and std 0 it returns the noise that was added, so VSD is SDS. O(N²) in the batch; for any prior.
    """

    def __init__(self, prior: Prior, std: NotNegative = 0.0, seed: int = 0):
        check("std", std, NotNegative)
        super().__init__(prior, seed)
        self.std, self.particles, self.pull = std, None, 0.0

    def fit(self, x, t, eps, cond, camera=None, pull=0.0):
        self.particles, self.pull, self.fits = x.detach().clone(), pull, self.fits + 1
        x_t = self.prior.add_noise(x, eps, t)
        return (self.eps(x_t, t, cond) - self.target(x_t, t, eps, cond, pull)).square().mean()

    def eps(self, x_t, t, cond, camera=None):
        if self.particles is None:
            raise ValueError("the exact critic has no renders yet: call fit(x, ...) first")
        mixture = GaussianMixturePrior(self.particles.flatten(1), self.std, schedule=self.prior.schedule)
        eps, = mixture.eps(x_t.flatten(1), t, torch.tensor([-1], device=x_t.device))
        return self.target(x_t, t, eps.reshape(x_t.shape), cond, self.pull)


class IdentityCritic(Critic):
    """D_phi(x_t) = x: the renders as they are, each for itself. With it a rule with a critic is SDS, with the rule's own weight
    and timesteps; DreamFlow's for normal maps, as ProlificDreamer's. It learns nothing."""

    x: Tensor | None = None

    def fit(self, x, t, eps, cond, camera=None, pull=0.0):
        self.x, self.fits = x.detach().clone(), self.fits + 1
        return x.new_zeros(())

    def eps(self, x_t, t, cond, camera=None):
        if self.x is None:
            raise ValueError("the identity critic has no renders yet: call fit(x, ...) first")
        return self.prior.schedule.eps_from_x0(x_t, self.x, t)


class LearnedCritic(Critic):
    """A critic whose ``learner`` fits it; a subclass writes ``_eps``, with gradients, through the network of ``base``."""

    learner: Learner

    def __init__(self, prior: Prior, seed: int = 0, base: Prior | None = None):
        super().__init__(prior, seed)
        self.base = base or prior

    @abstractmethod
    def _eps(self, x_t: Sample, t: Steps, cond: Cond, camera: Cameras | None) -> Sample:
        """As ``eps``, differentiable in what is learnt."""

    def _each(self, function: Callable, n: int, cond: Cond, camera: Cameras | None) -> list[Tensor]:
        """``function(rows, cond, camera)`` of the pieces of a batch of n."""
        cond = expand(cond, n)
        return each(lambda rows: function(rows, take(cond, rows), camera and camera[rows]), pieces(n, self.base.joined))

    @torch.no_grad()
    def eps(self, x_t, t, cond, camera=None):
        return torch.cat(self._each(lambda rows, *given: self._eps(x_t[rows], t[rows], *given), len(x_t), cond, camera))

    def fit(self, x, t, eps, cond, camera=None, pull=0.0):
        """The loss is the mean square in what the base predicts: noise, or velocity, whose error is the noise's / alpha_t."""
        x_t = self.prior.add_noise(x.detach(), eps, t)
        with torch.no_grad():
            target = self.target(x_t, t, eps, cond, pull)

        def loss(rows: slice, *given) -> Tensor:
            error = self._eps(x_t[rows], t[rows], *given) - target[rows]
            if self.base.prediction == "v_prediction":
                error = error / self.base.schedule.alpha(t[rows], error)
            return error.square().sum() / x_t.numel()

        with torch.enable_grad():
            loss = self.learner.step(*self._each(loss, len(x), cond, camera))
        self.fits += 1
        return loss

    def state_dict(self):
        return super().state_dict() | under("critic", self.learner.state_dict())

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.learner.load_state_dict(select(state, "critic"))


class LoRACritic(LearnedCritic):
    """Low-rank adapters (arXiv 2106.09685) on every attention projection of the UNet of ``base``, through peft.

    ``base`` is the prior itself, or another that reads the same conditions: a v-prediction UNet beside an eps-prediction prior,
    as in ProlificDreamer's code. The adapted UNet is a second module tree over the *same* weight tensors, which stay frozen, so
    the base neither changes nor is copied; it starts as the base. ``camera``: also embed the camera-to-world matrix, 16
    numbers, into the timestep embedding, as threestudio does. ``rank`` and ``lr`` 1e-4 are threestudio's; the toybox wants a
    larger lr. ValueError where the base has no UNet, or is not :func:`comparable`.
    """

    def __init__(self, prior: Prior, rank: Count = 4, lr: Positive = 1e-4, camera: bool = False, seed: int = 0,
                 base: DiffusionPrior | None = None):
        from diffusers.models.embeddings import TimestepEmbedding
        from peft import LoraConfig, inject_adapter_in_model

        check("rank", rank, Count)
        check("lr", lr, Positive)
        super().__init__(prior, seed, base)
        if not hasattr(self.base, "unet"):
            raise ValueError(f"{type(self.base).__name__} has no UNet to adapt: use ExactCritic(prior)")
        if camera and "camera" in self.base.reads:
            raise ValueError("the UNet of this prior reads cameras itself: leave out camera")
        comparable(self, self.base)
        theirs = self.base.unet
        unet = copy.deepcopy(theirs, {id(tensor): tensor for tensor in [*theirs.parameters(), *theirs.buffers()]})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(subseed(seed, "critic weights"))
            unet = inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian",
                                                      target_modules=["to_q", "to_k", "to_v", "to_out.0"]), unet)
            if camera:
                width = unet.time_embedding.linear_2.out_features
                unet.class_embedding = TimestepEmbedding(16, width).to(theirs.device)
                nn.init.zeros_(unet.class_embedding.linear_2.weight)
                nn.init.zeros_(unet.class_embedding.linear_2.bias)
        for p in unet.parameters():  # AdamW in half precision loses the small steps
            p.data = p.data.float() if p.requires_grad else p.data
        self.unet, self.camera, self.learner = unet, camera, Learner(unet, lr, weight_decay=0.01)

    def _eps(self, x_t, t, cond, camera):
        if self.camera and camera is None:
            raise ValueError("this critic embeds cameras and got none: pass camera=, or build it with camera=False")
        label = torch.linalg.inv(camera.viewmats).flatten(1).to(x_t.device) if self.camera else None
        dtype = self.base.unet.dtype
        with torch.autocast(x_t.device.type, dtype, enabled=dtype != torch.float32):
            return unet_eps(self.base, self.unet, x_t, t, expand(cond, len(x_t)), class_labels=label)


class EmbeddingCritic(LearnedCritic):
    """The frozen prior under a learnt condition y_psi, which starts as the prior's null one: LODS's cheaper critic.

    ``lr``: the paper's 1e-5 in 3D, 1e-4 in 2D. Its gradient runs through the UNet, into the embedding only. For priors whose
    condition is real: text embeddings, or image weights; of a :class:`Condition` every real tensor is learnt.
    """

    def __init__(self, prior: Prior, lr: Positive = 1e-5, seed: int = 0):
        check("lr", lr, Positive)
        super().__init__(prior, seed)
        if not learnable(prior.null):
            raise ValueError(f"{type(prior).__name__} is conditioned on integer labels, which have no gradient: "
                             "use ExactCritic(prior)")
        self.embedding = nn.ParameterList([nn.Parameter(v.detach().float().clone()) for v in learnable(prior.null)])
        self.learner = Learner(self.embedding, lr)

    def _eps(self, x_t, t, cond, camera):
        learnt, null = iter(self.embedding), self.prior.null
        y = null.map(lambda v: next(learnt) if v.is_floating_point() else v) if isinstance(null, Condition) else next(learnt)
        return self.prior.eps(x_t, t, y)[0]


def learnable(cond: Cond) -> list[Tensor]:
    """The real tensors of a condition; integers have no gradient."""
    return [v for v in (cond.tensors.values() if isinstance(cond, Condition) else [cond]) if v.is_floating_point()]


def lora(prior: Prior, lr: float, seed: int, *, base: Name | None = None, camera: bool = False) -> Critic:
    """:class:`LoRACritic`: on the prior's own UNet, or on that of ``base``, which looks at the prior's latents and reads the
    same conditions; ``camera``: with the cameras embedded. For a prior without a UNet the exact critic."""
    if base is None:
        return LoRACritic(prior, lr=lr, seed=seed, camera=camera) if hasattr(prior, "unet") else ExactCritic(prior, seed=seed)
    other = DiffusionPrior.load(base, prior.device)
    other.shape = prior.shape
    return LoRACritic(prior, lr=lr, seed=seed, camera=camera, base=other)


def identity(prior: Prior, lr: float, seed: int) -> Critic:
    """:class:`IdentityCritic`."""
    return IdentityCritic(prior, seed)


CRITICS = {critic.__name__: critic for critic in (lora, identity)}


def rate(prior: Prior, given: float | None, published: float) -> float:
    """The rate that is given, else that of the prior's card, else the published one. ValueError unless it is above 0."""
    check("critic_rate", given, Positive | None)
    return next(lr for lr in (given, prior.card.critic_rate, published) if lr is not None)


def comparable(critic: Critic, prior: Prior) -> None:
    """ValueError unless the critic's samples and noise schedule are this prior's: their difference would mean nothing."""
    mine, a, b = critic.prior, critic.prior.schedule.alphas_cumprod, prior.schedule.alphas_cumprod
    if mine is prior:
        return
    if tuple(mine.shape) != tuple(prior.shape):
        what = f"its samples have shape {tuple(mine.shape)} and not {tuple(prior.shape)}"
    elif len(a) != len(b):
        what = f"its noise schedule has {len(a)} timesteps and not {len(b)}"
    elif not torch.allclose(a, b.to(a), rtol=1e-4, atol=1e-6):
        what = f"the alphas_cumprod of their noise schedules are up to {(a - b.to(a)).abs().max():.2g} apart"
    else:
        return
    raise ValueError(f"the critic was built on another prior ({type(mine).__name__}) than it works with "
                     f"({type(prior).__name__}), {what}: build it there, or take two that agree")
