"""How what was distilled compares with real renders of the toybox: over-saturated? sharp? what was asked for?

**Where.** Only inside the object, two pixels (at 64) or more from its outline: what surrounds it, a halo, a background, and how
much of the picture it fills, say nothing about its surface. In 3D (:func:`solid`) that is inside the aligned candidate's
silhouette *and* the truth's, and the truth is read in the same pixels of the same views. A flat picture (:func:`measure`) has
no alpha, but a plain background: what is near the colour of its border is not the object (:func:`background`).

* ``saturation``: mean of HSV's S, max - min over max of the channels, in [0, 1].
* ``clipped``: share of channel values within 1/255 of 0 or 1: what over-saturation ends in.
* ``sharpness``: mean absolute response of the 4-neighbour Laplacian of the luminance, in [0, 1]. Noise is sharp too: read it as
  a ratio to the reference, where 1 is right and more is noise or ringing.
* ``saturation_ratio``, ``sharpness_ratio``: over the same of the truth, or of real renders. 1 is right.
* ``realism``: a distance in the judge's pooled features; less is better, 0 is the same picture. In 3D: from each of the 24
  views to the truth's at the same azimuth, over what the truth's views are from themselves 5 degrees off. Of flat pictures: to
  the nearest of the references, over what those are from their nearest other; 1 is as near as real pictures are to each other.
* ``kind``, ``colour``: the judge's mean probability of the kind and colour that were asked for, in [0, 1].

Where no interior is left, in an empty picture or one without a background, all but realism and the judge's reading are 0.

**References** of flat pictures are 64 true renders of the same kind and colour, seen like the prior's training pictures
(front-biased cameras, plain backgrounds), passed through the prior's autoencoder where the pictures were, so that its blur is
not held against a rule. Pictures are (B, 64, 64, 3) in [0, 1].
"""
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from dreamlab.checks import finite
from dreamlab.metrics.align import FINITE, Aligned, layers
from dreamlab.toybox.captions import parse
from dreamlab.toybox.dataset import FRONT_BIAS, backgrounds, biased_cameras
from dreamlab.toybox.judge import Judge
from dreamlab.toybox.objects import COLOURS, KINDS, Toy, colour_rgb
from dreamlab.toybox.render import trace
from dreamlab.types import Images

Masks = Bool[Tensor, "b h w"]
MARGIN = 2  # pixels from the outline
NEAR, SAME = 0.08, 0.03  # to the background's colour, as the greatest difference of a channel


def saturation(images: Images) -> Float[Tensor, "b h w"]:
    """HSV's S of each pixel."""
    high, low = images.amax(-1), images.amin(-1)
    return (high - low) / high.clamp(min=1e-6)


def clipped(images: Images) -> Float[Tensor, "b h w"]:
    """Share of each pixel's channels within 1/255 of 0 or 1."""
    return ((images <= 1 / 255) | (images >= 254 / 255)).float().mean(-1)


def sharpness(images: Images) -> Float[Tensor, "b h w"]:
    """Absolute Laplacian of the luminance at each pixel, over 4."""
    grey = images @ torch.tensor([0.299, 0.587, 0.114]).to(images)
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).to(images)
    return F.conv2d(F.pad(grey[:, None], (1, 1, 1, 1), mode="replicate"), kernel[None, None]).abs()[:, 0] / 4


def eroded(masks: Masks, pixels: int = MARGIN) -> Masks:
    """Masks without what is within some pixels of their outline, diagonals included."""
    return F.max_pool2d((~masks).float(), 2 * pixels + 1, 1, pixels) == 0


def inside(values: Float[Tensor, "b h w"], masks: Masks) -> float:
    """Mean over all pixels of the masks, 0 where there are none."""
    return (values * masks).sum().item() / max(masks.sum().item(), 1)


def background(images: Images) -> Masks:
    """What is near the border's median colour and hangs together with the border; and, for the hole of a handle, what is the
    same.
    """
    border = torch.cat([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], 1)
    middle = border.median(1, keepdim=True).values
    patchy = (border - middle).abs().amax(-1).quantile(0.8, 1)  # how far from plain it is
    away = (images - middle[:, None]).abs().amax(-1)
    near = away < (2 * patchy).clamp(NEAR, 3 * NEAR)[:, None, None]
    reached = near.clone()
    reached[:, 1:-1, 1:-1] = False
    while True:  # one pixel further each time
        further = near & (F.max_pool2d(reached.float(), 3, 1, 1) > 0)
        if torch.equal(further, reached):
            return reached | (away < SAME)
        reached = further


def surface(images: Images, masks: Masks, real: Float[Tensor, "n h w 3"],
            real_masks: Bool[Tensor, "n h w"]) -> dict[str, float]:
    """Saturation, clipping and sharpness inside masks, and the ratios to real pictures inside theirs."""
    found = {name: inside(of(images), masks) for name, of in
             (("saturation", saturation), ("clipped", clipped), ("sharpness", sharpness))}
    for name, of in (("saturation", saturation), ("sharpness", sharpness)):
        found[f"{name}_ratio"] = found[name] / max(inside(of(real), real_masks), 1e-6)
    return found


@torch.no_grad()
def features(images: Images) -> Float[Tensor, "b f"]:
    """What the judge's trunk sees in pictures: means and maxima of its last 128 channels."""
    h = Judge.load().trunk(images.permute(0, 3, 1, 2).float().contiguous() * 2 - 1)
    return torch.cat([h.mean((2, 3)), h.amax((2, 3))], 1)


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


def realism(images: Images, real: Float[Tensor, "n _ _ 3"]) -> Float[Tensor, "b"]:
    """Distance to the nearest of ``real`` in the judge's features, over the mean distance of those to their nearest other."""
    known = features(real)
    exact = {"compute_mode": "donot_use_mm_for_euclid_dist"}
    apart = torch.cdist(known, known, **exact).fill_diagonal_(float("inf")).amin(1).mean()
    return torch.cdist(features(images), known, **exact).amin(1) / apart.clamp_min(1e-6)


def solid(pair: Aligned) -> dict[str, float]:
    """Of an aligned candidate: means over its interior in all views, the ratios to the truth's there, and realism."""
    both = eroded(pair.mask & pair.true_mask)
    all_around = features(layers(pair.kind).rgb(torch.tensor(colour_rgb(pair.colour)), torch.ones(3)))
    unit = (all_around - all_around.roll(1, 0)).norm(dim=1).mean()
    there = all_around[:: len(all_around) // len(pair.seen)]
    apart = (features(pair.seen) - there).norm(dim=1).mean() / unit
    return surface(pair.seen, both, pair.true, both) | {"realism": apart.item()}


def measure(images: Images, prompt: str, real: Float[Tensor, "n _ _ 3"]) -> dict[str, float]:
    """Of flat pictures, beside the references ``real``: means over their interiors; realism, kind and colour over the pictures.
    ValueError for pictures that are not finite."""
    kind, colour = parse(prompt)
    images = finite(images.detach().cpu().float(), "the pictures to be measured have", FINITE).clamp(0, 1)
    mine, theirs = (eroded(~background(x)) for x in (images, real))
    p_kind, p_colour = (p.mean().item() for p in fidelity(images, kind, colour))
    return surface(images, mine, real, theirs) | {"kind": p_kind, "colour": p_colour,
                                                  "realism": realism(images, real).mean().item()}
