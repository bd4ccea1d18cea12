"""The six priors that every rule must work on, inputs for them, and a rule for each of them by name."""
import tempfile
from copy import copy
from functools import cache
from pathlib import Path

import torch
from torch import nn

from dreamlab import rules
from dreamlab.noise import Schedule, randn, seeded
from dreamlab.priors.base import Prior
from dreamlab.priors.critic import Critic
from dreamlab.priors.diffusion import DiffusionPrior
from dreamlab.priors.mixture import GaussianMixturePrior, ImageMixturePrior
from dreamlab.prompts import Prompt
from dreamlab.rules import VDM, LinearOperator
from dreamlab.rules.vsd import CriticRule

UNGUIDED = {name for name in rules.RULES if "guidance" not in getattr(rules, name).__dataclass_fields__}
PRIORS = ["points", "pixels", "toybox", "eps", "v", "refiner"]


def points() -> GaussianMixturePrior:
    return GaussianMixturePrior(torch.tensor([[-1.5, 0.0], [1.5, 0.5], [0.0, -1.5]]), 0.2)


def pixels(size: int = 16) -> ImageMixturePrior:
    """Ten images that are smooth blobs, half of them "warm"."""
    coarse = torch.rand(10, 3, 4, 4, generator=torch.Generator().manual_seed(7)) * 2 - 1
    images = nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    return ImageMixturePrior(images, {"mood": ["warm"] * 5 + ["cold"] * 5})


def tiny(prediction: str, seed: int = 0) -> DiffusionPrior:
    """A Stable-Diffusion-shaped pipeline with random weights: 8 x 8 latents, a condition of 16 tokens by 8 numbers."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = prior("toybox").pipe.tokenizer
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=4,
        cross_attention_dim=8, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
    text = CLIPTextModel(CLIPTextConfig(num_hidden_layers=1, **reads(tokenizer)))
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)
    scheduler = DDIMScheduler(1000, 0.00085, 0.012, "scaled_linear", clip_sample=False, steps_offset=1,
                              prediction_type=prediction)
    return DiffusionPrior(StableDiffusionPipeline(vae, text, tokenizer, unet, scheduler, None, None,
                                                  requires_safety_checker=False))


def reads(tokenizer) -> dict:
    """The settings of a text encoder of width 8 for what a tokenizer writes."""
    return {"vocab_size": len(tokenizer), "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1,
            "max_position_embeddings": tokenizer.model_max_length, "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id}


def tiny_refiner(seed: int = 0):
    """A pipeline shaped like Stable Diffusion XL's refiner, with random weights: 8 x 8 latents of 16 x 16 pixels.

    Attention at the inner level alone; a condition is 16 tokens by 8, the projected end by 6, and five numbers by 4 waves.
    """
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLImg2ImgPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    tokenizer = prior("toybox").pipe.tokenizer
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=(1, 2, 2),
        cross_attention_dim=8, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=6 + 5 * 4)
    text = CLIPTextModelWithProjection(CLIPTextConfig(num_hidden_layers=2, projection_dim=6, **reads(tokenizer)))
    vae = AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, scaling_factor=0.13025, force_upcast=True)
    scheduler = EulerDiscreteScheduler(1000, 0.00085, 0.012, "scaled_linear", timestep_spacing="leading", steps_offset=1)
    return StableDiffusionXLImg2ImgPipeline(
        vae, None, text, None, tokenizer, unet, scheduler, requires_aesthetics_score=True, force_zeros_for_empty_prompt=False,
        add_watermarker=False)


@cache
def prior(name: str) -> Prior:
    make = {"points": points, "pixels": pixels, "toybox": DiffusionPrior.load, "eps": lambda: tiny("epsilon"),
            "v": lambda: tiny("v_prediction"), "another v": lambda: tiny("v_prediction", seed=1),
            "refiner": lambda: DiffusionPrior(tiny_refiner())}
    return make[name]()


def prompt(prior: Prior) -> Prompt:
    """Three conditions that differ."""
    if isinstance(prior, GaussianMixturePrior):
        return Prompt(torch.tensor([1]), prior.null, torch.tensor([2]))
    if isinstance(prior, ImageMixturePrior):
        return Prompt(prior.cond(mood="warm"), prior.null, prior.cond(mood="cold"))
    if isinstance(prior, Constant):
        return Prompt(torch.full((1, 1), 1.0), prior.null, torch.full((1, 1), -1.0))
    return Prompt(prior.embed(["a red mug"]), prior.null, prior.embed(["a blue bear, back view"], negative=True))


def inputs(prior: Prior, seed: int = 0, n: int = 3, t_max: int = 700):
    """x, t, eps, prompt."""
    generator = seeded(1, seed)
    t = torch.randint(20, t_max, (n,), generator=generator)
    return randn((n, *prior.shape), generator), t, randn((n, *prior.shape), generator), prompt(prior)


class Constant(Prior):
    """eps = the condition, one number, wherever x_t is: what a rule does to its predictions is then plain to see."""

    def __init__(self, shape: tuple[int, ...] = (3, 8, 8)):
        self.schedule, self.shape = Schedule.scaled_linear(), shape

    @property
    def null(self):
        return torch.zeros(1, 1)

    def _eps(self, x_t, t, cond):
        return cond.reshape(-1, *[1] * (x_t.ndim - 1)).expand_as(x_t)


class Frozen(Critic):
    """A critic that learns nothing: the prior's own null prediction."""

    def eps(self, x_t, t, cond, camera=None):
        return self.prior.eps(x_t, t, self.prior.null)[0]

    def fit(self, x, t, eps, cond, camera=None, pull=0.0):
        self.fits += 1
        return torch.zeros(())


def build(name: str, prior: Prior, **settings) -> rules.Rule:
    """The rule as its users build it, but for LMC-SDS, whose b is trained for five steps, and with a dear UNet for none."""
    if name == "LMCSDS":
        settings = {"pretrain": 0 if hasattr(prior, "unet") else 5} | settings
    return getattr(rules, name).for_prior(prior, **settings)


def build_apart(name: str, prior: Prior, **settings) -> rules.Rule:
    """The rule without what it learns from the batch as a whole: a frozen critic, VDM's elementwise operator."""
    rule = getattr(rules, name)
    if issubclass(rule, CriticRule):
        return rule(Frozen(prior), **settings)
    return VDM(LinearOperator(prior.shape), **settings) if name == "VDM" else build(name, prior, **settings)


def again(owner, **fields):
    """A dataclass with other fields, checked anew; in ``owner(...)`` the tests' own type checker would speak before it."""
    other = copy(owner)
    vars(other).update(fields)
    other.__post_init__()
    return other


# A pyramid without its base, red but for a blue tip: somebody's mesh, which need not be watertight. In the OBJ's axes, y up
PYRAMID = """v 1 0 1 1 0 0
v 1 0 -1 1 0 0
v -1 0 -1 1 0 0
v -1 0 1 1 0 0
v 0 1.5 0 0 0 1
f 1 2 5
f 2 3 5
f 3 4 5
f 4 1 5
"""


@cache
def pyramid() -> str:
    """Where a file of it is."""
    path = Path(tempfile.mkdtemp()) / "pyramid.obj"
    path.write_text(PYRAMID)
    return str(path)
