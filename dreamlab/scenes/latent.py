"""A radiance field in a prior's latents (Latent-NeRF, arXiv 2211.07600): no encoder is in the loop."""
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from dreamlab.cameras import Cameras
from dreamlab.checks import Positive, Range
from dreamlab.priors.base import Prior
from dreamlab.scenes.base import Begin
from dreamlab.scenes.nerf import HashGrid, NeRF, through


class LatentNeRF(NeRF):
    """A :class:`NeRF` whose network gives the c latents of a prior in place of a colour, any real numbers.

    :meth:`latent` is what a rule sees, one ray a latent: let the prior look at it, look=latents. Colours, for people and for a
    mesh, are (latents, 1) @ ``to_rgb``, a linear map as where the paper refines colours, and plain colours behind it are
    (rgb, 1) @ ``to_latent``; both maps are fitted once (:func:`maps`), and are no leaves.
    """

    def __init__(self, *given, to_rgb: Float[Tensor, "c1 3"], to_latent: Float[Tensor, "4 c"], **settings):
        self.channels = len(to_rgb) - 1
        super().__init__(*given, **settings)
        self.kept = {"to_rgb": to_rgb.detach().clone(), "to_latent": to_latent.detach().clone()}

    def latents(self, points: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, "n"], Float[Tensor, "n c"]]:
        """Density and latents."""
        h = self.encode(points)
        return self.density(points, h), through(self.mlps["color"], h)

    def field(self, points: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, "n"], Float[Tensor, "n 3"]]:
        density, z = self.latents(points)
        return density, mapped(z, self.kept["to_rgb"]).clamp(0, 1)

    def latent(self, cameras: Cameras, side: int, background: Float[Tensor, "3"] | Float[Tensor, "b 3"],
               generator: torch.Generator | None = None) -> Float[Tensor, "b c side side"]:
        """What each camera sees, ``side`` latents wide, over the latents of a plain background."""
        behind = mapped(background.to(self.kept["to_latent"]), self.kept["to_latent"])
        return self.seen(self.latents, cameras, side, behind, generator)[0].movedim(-1, 1)

    @classmethod
    def rebuild(cls, config: dict, leaves: dict[str, Tensor], prior: Prior | None = None) -> "LatentNeRF":
        return super().rebuild(config, leaves, to_rgb=leaves["to_rgb"], to_latent=leaves["to_latent"])


def mapped(x: Float[Tensor, "*n a"], by: Float[Tensor, "_ b"]) -> Float[Tensor, "*n b"]:
    """(x, 1) @ by."""
    return x @ by[:-1] + by[-1]


@torch.no_grad()
def maps(prior: Prior) -> tuple[Float[Tensor, "c1 3"], Float[Tensor, "4 c"]]:
    """The two linear maps that turn the mean latents of 64 plain pictures into their colours and back, by least squares."""
    rgb = torch.cartesian_prod(*[torch.linspace(0, 1, 4)] * 3)
    z = torch.cat([prior.encode(some.view(-1, 1, 1, 3).expand(-1, *[prior.resolution] * 2, -1).to(prior.device)).mean((2, 3))
                   for some in rgb.split(8)]).float().cpu()
    pairs = [(torch.cat([a, torch.ones(len(a), 1)], 1), b) for a, b in ((z, rgb), (rgb, z))]
    return tuple(torch.linalg.lstsq(a.double(), b.double(), driver="gelsd").solution.float() for a, b in pairs)


def latent_blob(begin: Begin, *, levels: Annotated[int, Range(1, 24)] = 16, features: Annotated[int, Range(1, 16)] = 2,
                finest: Annotated[int, Range(16, 2**16)] = 2048, hidden: Annotated[int, Range(1, 256)] = 64,
                samples: Annotated[int, Range(1, 1024)] = 128, radius: Positive = 1.0) -> LatentNeRF:
    """A radiance field of the prior's latents that begins as a soft blob: set look to latents. As
    :func:`dreamlab.scenes.nerf.blob`."""
    to_rgb, to_latent = maps(begin.prior)
    growth = (finest / 16) ** (1 / max(levels - 1, 1))
    return LatentNeRF(HashGrid(levels, features, growth=growth, generator=begin.generator), hidden, radius, samples,
                      generator=begin.generator, to_rgb=to_rgb, to_latent=to_latent)
