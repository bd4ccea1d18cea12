"""Shapes and conventions. Everything else in dreamlab agrees with this page; it imports nothing of ours.

* World: right-handed, z up, units of the scene (toybox objects fit in a ball of radius 0.8 around the origin).
* Azimuth 0 is the front of an object: the camera stands on +x. Azimuth grows counter-clockwise seen from above, so
  azimuth 90 (the camera on +y) shows the object's own left side. Angles carry their unit in the name (``azimuth_deg``).
* Cameras: OpenCV axes (x right, y down, z forward), world-to-camera ``viewmats`` and pixel ``Ks`` as in gsplat; pixel
  centres at +0.5, row 0 is the top of the image.
* Renders are (B, H, W, C) in [0, 1]; images for a prior are (B, C, H, W); ``Prior.encode`` is the one crossing.
* ``x, x_t, eps, t``: clean sample, noisy sample, noise, timestep (a ``long`` index into ``alphas_cumprod``).
* Guidance ``s`` is diffusers': ``null + s * (positive - null)``, so s = 1 means none.
* Whatever is random takes a ``torch.Generator``.
"""
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

Sample = Float[Tensor, "b *dims"]  # what a prior denoises: (B, C, H, W) images or latents, or (B, D) points
Images = Float[Tensor, "b h w 3"]  # rendered pictures in [0, 1]
Steps = Int[Tensor, "b"]  # timesteps, long
Rates = dict[str, float | tuple[float, float]]  # an optimiser's, by group of leaves: constant, or log-linear from first to last


@dataclass
class Samples:
    """What a volume rendering has added up, without history: n places on r rays, ray after ray, and the T alpha of each."""

    places: Float[Tensor, "n 3"]
    weights: Float[Tensor, "n"]
    ray: Int[Tensor, "n"]
    directions: Float[Tensor, "r 3"]  # of the rays, of length 1


@dataclass
class Render:
    """What a scene shows: colour over the background, coverage, depth along the camera's z axis, world normals.

    A splatted scene also says where its n Gaussians fell: their centres in pixels, which keep their gradient after a
    backward pass, and half the width and height in pixels of the box that each is drawn in (0: not drawn). A volume says
    which ``samples`` it has added up.
    """

    rgb: Float[Tensor, "b h w 3"]
    alpha: Float[Tensor, "b h w 1"]
    depth: Float[Tensor, "b h w 1"] | None = None
    normal: Float[Tensor, "b h w 3"] | None = None
    means2d: Float[Tensor, "b n 2"] | None = None
    radii: Float[Tensor, "b n 2"] | None = None
    samples: Samples | None = None

    @classmethod
    def cat(cls, renders: Sequence["Render"]) -> "Render":
        """The views of all, without their history and samples; the centres keep the gradient that they have."""
        renders = [replace(render, samples=None) for render in renders]
        if len(renders) == 1:
            return renders[0]
        columns = {name: [getattr(render, name) for render in renders] for name in vars(renders[0])}
        whole = cls(**{name: None if of[0] is None else torch.cat([x.detach() for x in of]) for name, of in columns.items()})
        if all(x is not None and x.grad is not None for x in columns["means2d"]):
            whole.means2d.grad = torch.cat([x.grad for x in columns["means2d"]])
        return whole
