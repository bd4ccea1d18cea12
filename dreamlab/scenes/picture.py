"""The simplest scene: a picture that is its own render. Distilled into it, a rule can be watched without any 3D."""
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from dreamlab.cameras import Cameras
from dreamlab.files import writing
from dreamlab.types import Images, Render


class Picture:
    """One leaf tensor: ``Picture(pixels (n, h, w, 3))``, or ``Picture(latents (n, c, h, w), decode=prior.decode)``.

    Pixels are stored as they are, nominally in [0, 1] but not clamped, so that d loss / d pixel is the rule's residual,
    scaled by the prior's ``encode`` alone. A latent picture is distilled through :meth:`latent`; its render is for
    looking at, and carries a gradient only if ``decode`` does.
    """

    def __init__(self, x: Float[Tensor, "n _ _ _"], decode: Callable[[Tensor], Images] | None = None):
        if decode is None and x.shape[-1] != 3:
            raise ValueError(f"pixels have the shape (n, h, w, 3), got {tuple(x.shape)}: give decode= for latents")
        self.x, self.decode = x.detach().clone().requires_grad_(), decode

    @classmethod
    def grey(cls, resolution: int, n: int = 1) -> "Picture":
        """n square pictures of mid-grey pixels: a start that favours nothing."""
        return cls(torch.full((n, resolution, resolution, 3), 0.5))

    def parameters(self) -> dict[str, Tensor]:
        return {"latents" if self.decode else "pixels": self.x}

    def latent(self) -> Float[Tensor, "n c h w"]:
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

    def save(self, path: Path) -> None:
        """The leaf as safetensors, written aside and renamed."""
        with writing(path) as part:
            save_file({name: x.detach().contiguous() for name, x in self.parameters().items()}, part)

    @classmethod
    def load(cls, path: Path, decode: Callable[[Tensor], Images] | None = None) -> "Picture":
        """ValueError where the file holds latents and no ``decode`` is given, or pixels and one is."""
        (name, x), = load_file(path).items()
        if (name == "latents") != (decode is not None):
            raise ValueError(f"{path} holds {name}: {'give' if decode is None else 'leave out'} decode=")
        return cls(x, decode)
