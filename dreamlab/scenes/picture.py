"""The simplest scene: a picture that is its own render. Distilled into it, a rule can be watched without any 3D."""
from collections.abc import Callable
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from dreamlab.cameras import Cameras
from dreamlab.checks import Range, checked
from dreamlab.noise import randn
from dreamlab.priors.base import Prior
from dreamlab.scenes.base import Begin, Scene
from dreamlab.types import Images, Render

Few = Annotated[int, Range(1, 1024)]


class Picture(Scene):
    """One leaf tensor: ``Picture(pixels (n, h, w, 3))``, or ``Picture(latents (n, c, h, w), decode=prior.decode)``.

    Pixels are stored as they are, nominally in [0, 1] but not clamped, so that d loss / d pixel is the rule's residual,
    scaled by the prior's ``encode`` alone. A latent picture is distilled through :meth:`latent`; its render is for
    looking at, and carries a gradient only if ``decode`` does.
    """

    rates = {"latents": 0.05, "pixels": 0.05}
    dimensions = 2

    @checked
    def __init__(self, x: Float[Tensor, "n _ _ _"], decode: Callable[[Tensor], Images] | None = None):
        if decode is None and x.shape[-1] != 3:
            raise ValueError(f"pixels have the shape (n, h, w, 3), got {tuple(x.shape)}: give decode= for latents")
        self.x, self.decode = x.detach().clone().requires_grad_(), decode

    @classmethod
    @checked
    def grey(cls, resolution: Annotated[int, Range(1, 8192)], n: Few = 1) -> "Picture":
        """n square pictures of mid-grey pixels: a start that favours nothing."""
        return cls(torch.full((n, resolution, resolution, 3), 0.5))

    def parameters(self) -> dict[str, Tensor]:
        return {"latents" if self.decode else "pixels": self.x}

    def latent(self, *view) -> Float[Tensor, "n c h w"]:
        """The leaf itself, ready for a rule. ValueError for a picture of pixels: ``encode`` its rgb."""
        if self.decode is None:
            raise ValueError("this picture is stored as pixels: use prior.encode(picture.render().rgb)")
        return self.x

    def render(self, cameras: Cameras | None = None, resolution: int | None = None,
               background: Tensor | None = None, generator: torch.Generator | None = None) -> Render:
        """The picture, opaque, as every camera sees it; a single one is repeated for each. The background never shows.

        ValueError if ``resolution`` is not the picture's own, or if n > 1 pictures meet another number of cameras.
        """
        rgb = self.decode(self.x) if self.decode else self.x
        views = len(rgb) if cameras is None else len(cameras)
        if len(rgb) not in (1, views):
            raise ValueError(f"{len(rgb)} pictures cannot be shared among {views} cameras: give 1 picture, or {views}")
        if resolution not in (None, rgb.shape[1]):
            raise ValueError(f"the picture has {rgb.shape[1]} pixels, got resolution {resolution}: make them the same")
        rgb = rgb.expand(views, -1, -1, -1)
        return Render(rgb, torch.ones_like(rgb[..., :1]))

    def __len__(self) -> int:
        return len(self.x)

    def of(self, n: int) -> "Picture":
        return Picture(self.x[torch.arange(n) % len(self)], self.decode)

    @property
    def together(self) -> int:
        return len(self)

    @classmethod
    def rebuild(cls, config: dict, leaves: dict[str, Tensor], prior: Prior | None = None) -> "Picture":
        (name, x), = leaves.items()
        if name not in cls.rates:
            raise ValueError(f"a picture is made of {' or '.join(cls.rates)}, got {name}: give one of them")
        if name == "latents" and prior is None:
            raise ValueError("these are latents: give the prior that decodes them, load(path, prior)")
        return cls(x, prior.decode if name == "latents" else None)


def latents(begin: Begin, *, pictures: Few = 4) -> Picture:
    """Pictures that begin as noise in the prior's latents."""
    return Picture(noise(begin, pictures), begin.prior.decode)


def pixels(begin: Begin, *, pictures: Few = 4) -> Picture:
    """The same beginning, decoded: pictures that are optimised in pixels, through the prior's encoder."""
    return Picture(torch.cat([begin.prior.decode(some) for some in noise(begin, pictures).split(8)]))


def noise(begin: Begin, pictures: int) -> Tensor:
    """Noise of the prior's shape, where the prior is."""
    return randn((pictures, *begin.prior.shape), begin.generator).to(begin.prior.device)
