"""How a distilled picture compares with real renders of the toybox: over-saturated? sharp? what was asked for?

**Protocol.** Pictures are (B, 64, 64, 3) in [0, 1]. The reference is 64 true renders of the same kind and colour, seen like the
prior's training pictures (front-biased cameras, plain backgrounds), passed through the prior's autoencoder where the pictures
were, so that its blur is not held against a rule.

* ``saturation``: mean of HSV's S, max - min over max of the channels, in [0, 1].
* ``clipped``: share of channel values within 1/255 of 0 or 1: what over-saturation ends in.
* ``sharpness``: mean absolute response of the 4-neighbour Laplacian of the luminance, in [0, 1]. Noise is sharp too: read it as
  a ratio to the reference, where 1 is right and more is noise or ringing.
* ``realism``: mean distance, in the judge's pooled features, of a picture to its nearest reference, over what other real
  renders have to it. 1 is as near as real pictures are, more is further from anything real.
* ``kind``, ``colour``: the judge's mean probability of the kind and colour that were asked for, in [0, 1].
"""
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dreamlab.toybox.captions import parse
from dreamlab.toybox.dataset import FRONT_BIAS, backgrounds, biased_cameras
from dreamlab.toybox.judge import Judge
from dreamlab.toybox.objects import COLOURS, KINDS, Toy, colour_rgb
from dreamlab.toybox.render import trace
from dreamlab.types import Images


def saturation(images: Images) -> Float[Tensor, "b"]:
    """Mean of HSV's S of each picture."""
    high, low = images.amax(-1), images.amin(-1)
    return ((high - low) / high.clamp(min=1e-6)).mean((1, 2))


def clipped(images: Images) -> Float[Tensor, "b"]:
    """Share of values of each picture within 1/255 of 0 or 1."""
    return ((images <= 1 / 255) | (images >= 254 / 255)).float().mean((1, 2, 3))


def sharpness(images: Images) -> Float[Tensor, "b"]:
    """Mean absolute Laplacian of the luminance of each picture."""
    grey = images @ torch.tensor([0.299, 0.587, 0.114]).to(images)
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).to(images)
    return F.conv2d(grey[:, None], kernel[None, None]).abs().mean((1, 2, 3)) / 4


@torch.no_grad()
def fidelity(images: Images, kind: str, colour: str) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """The judge's probabilities of this kind and of this colour, for each picture."""
    kinds, colours, _ = Judge.load()(images.permute(0, 3, 1, 2).float().contiguous())
    return kinds.softmax(1)[:, list(KINDS).index(kind)], colours.softmax(1)[:, list(COLOURS).index(colour)]


@torch.no_grad()
def references(prompt: str, n: int = 64, seed: int = 0, through: Callable[[Images], Images] = lambda images: images) -> Images:
    """n true renders of what a prompt asks for; ``through`` an autoencoder, if one is given."""
    kind, colour = parse(prompt)
    generator = torch.Generator().manual_seed(seed)
    traced = trace(Toy(kind), biased_cameras(n, FRONT_BIAS, generator), 64)
    return through(traced.rgb(torch.tensor(colour_rgb(colour)), backgrounds(n, generator)))


@torch.no_grad()
def realism(images: Images, real: Float[Tensor, "n _ _ 3"]) -> Float[Tensor, "b"]:
    """Distance to the nearest of the first half of ``real`` in the judge's features, over the second half's mean distance."""
    def features(x: Images) -> Float[Tensor, "b f"]:
        h = Judge.load().trunk(x.permute(0, 3, 1, 2).float() * 2 - 1)
        return torch.cat([h.mean((2, 3)), h.amax((2, 3))], 1)

    here, other = features(real).chunk(2)
    return torch.cdist(features(images), here).amin(1) / torch.cdist(other, here).amin(1).mean()


def measure(images: Images, prompt: str, real: Float[Tensor, "n _ _ 3"]) -> dict[str, float]:
    """Means over the pictures; saturation and sharpness also as ratios to the references ``real``."""
    kind, colour = parse(prompt)
    images = images.detach().float().cpu().clamp(0, 1)
    s, e = saturation(images).mean().item(), sharpness(images).mean().item()
    p_kind, p_colour = (p.mean().item() for p in fidelity(images, kind, colour))
    return {"saturation": s, "saturation_ratio": s / saturation(real).mean().item(), "clipped": clipped(images).mean().item(),
            "sharpness": e, "sharpness_ratio": e / sharpness(real).mean().item(), "kind": p_kind, "colour": p_colour,
            "realism": realism(images, real).mean().item()}
