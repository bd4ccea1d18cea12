"""Captioned pictures of the toybox: views stored as layers, coloured when a batch is drawn. Same seed, same world."""
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from dreamlab.cameras import Cameras, Orbit, orbit
from dreamlab.files import load_weights, writing
from dreamlab.toybox.captions import TEMPLATES, caption, view_phrases
from dreamlab.toybox.objects import COLOURS, HELD_OUT, KINDS, Toy
from dreamlab.toybox.render import trace

FRONT_BIAS = (0.62, 0.28, 0.10)  # shares of front, side and back views: the disease of web photographs, as a setting
GREY = 0.5  # behind sets of views: its latents are near 0, where sampling begins
KIND_NAMES, COLOUR_NAMES = list(KINDS), list(COLOURS)
# Which colours a kind is shown in while training: all but the held-out one.
TRAIN_COLOURS = torch.tensor([[c for c in range(len(COLOURS)) if (k, COLOUR_NAMES[c]) not in HELD_OUT] for k in KINDS])


def biased_cameras(n: int, bias: tuple[float, float, float], generator: torch.Generator) -> Cameras:
    """n cameras whose azimuths fall in the front (|az| < 45), side and back (|az| > 135) sectors with shares ``bias``."""
    if len(bias) != 3 or min(bias) < 0 or abs(sum(bias) - 1) > 1e-6:
        raise ValueError(f"bias must be three shares (front, side, back) >= 0 that sum to 1, got {bias}")
    sector = torch.multinomial(torch.tensor(bias), n, replacement=True, generator=generator)
    u, el, r, side = torch.rand(4, n, generator=generator)
    away = torch.tensor([0.0, 45.0, 135.0])[sector] + torch.tensor([45.0, 90.0, 45.0])[sector] * u
    world = Orbit()
    (e0, e1), (r0, r1) = world.elevation_deg, world.radius
    return orbit(torch.where(side < 0.5, away, -away), e0 + (e1 - e0) * el, r0 + (r1 - r0) * r, world.fov_deg)


def backgrounds(n: int, generator: torch.Generator) -> Float[Tensor, "n 3"]:
    """Plain backgrounds: a grey in [0.25, 1] with a tint of +-0.15, the same in training and in distillation."""
    grey = 0.25 + 0.75 * torch.rand(n, 1, generator=generator)
    return (grey + 0.3 * (torch.rand(n, 3, generator=generator) - 0.5)).clamp(0, 1)


def grey(n: int, generator: torch.Generator) -> Float[Tensor, "n 3"]:
    """Middle grey behind all, as the bundled multi-view prior has seen it."""
    return torch.full((n, 3), GREY)


@dataclass
class Views:
    """Layers of N views as uint8 (N, 5, H, W): fixed rgb, main weight, alpha; with ``kind`` (N,) and ``azimuth_deg`` (N,)."""

    layers: Tensor
    kind: Tensor
    azimuth_deg: Tensor

    @staticmethod
    def make(per_kind: int, bias=FRONT_BIAS, seed: int = 0, resolution: int = 64, cache: Path | None = None,
             normals: bool = False) -> "Views":
        """Render ``per_kind`` views of each kind; kept in the file ``cache`` if one is named. ``normals``: the world normals n
        as colours, (n + 1) / 2, in the place of the colours."""
        if cache and cache.exists():
            n = per_kind * len(KINDS)
            like = {"layers": (n, 5, resolution, resolution), "kind": (n,), "azimuth_deg": (n,)}
            return Views(**load_weights(cache, "remove it, and it is made again", like))
        generator = torch.Generator().manual_seed(seed)
        layers, azimuths = [], []
        for kind in tqdm(KINDS, desc="rendering views"):
            cameras = biased_cameras(per_kind, bias, generator)
            azimuths.append(cameras.azimuth_deg)
            for i in range(0, per_kind, 8):
                traced = trace(Toy(kind), cameras[i : i + 8], resolution)
                fixed, main = traced.fixed, traced.main
                if normals:
                    fixed, main = (traced.normal + 1) / 2 * traced.alpha, torch.zeros_like(main)
                stack = torch.cat([fixed, main, traced.alpha], -1).permute(0, 3, 1, 2)
                layers.append((stack * 255).round().to(torch.uint8).contiguous())
        views = Views(torch.cat(layers), torch.arange(len(KINDS)).repeat_interleave(per_kind), torch.cat(azimuths))
        if cache:
            with writing(cache) as part:
                save_file(vars(views), part)
        return views

    def paint(self, index: Tensor, colour: Float[Tensor, "n 3"], background: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3 h w"]:
        """Pictures in [0, 1] of the indexed views in the given main and background colours."""
        fixed, main, alpha = (self.layers[index].float() / 255).split([3, 1, 1], 1)
        return fixed + main * colour[:, :, None, None] + (1 - alpha) * background[:, :, None, None]

    def batch(self, n: int, generator: torch.Generator, view_words: float = 0.5, null: float = 0.0):
        """n training pairs: pictures (n, 3, H, W) in [-1, 1], captions, and the indices (view, colour) behind them.

        ``view_words``: chance that a caption names its view; a back view is named twice as often as a front view (people
        mention what is unusual), so a caption that names none is even more likely a front. ``null``: chance of no caption.
        """
        index = torch.randint(len(self.kind), (n,), generator=generator)
        column = torch.randint(TRAIN_COLOURS.shape[1], (n,), generator=generator)
        which = TRAIN_COLOURS[self.kind[index], column]
        jitter = 0.03 * torch.randn(n, 3, generator=generator)
        colour = (torch.tensor(list(COLOURS.values()))[which] + jitter).clamp(0, 1)
        pictures = self.paint(index, colour, backgrounds(n, generator)) * 2 - 1
        dice = torch.rand(n, 4, generator=generator).tolist()
        captions = []
        for i, w, (d_null, d_view, d_phrase, d_template) in zip(index.tolist(), which.tolist(), dice, strict=True):
            phrases = view_phrases(self.azimuth_deg[i].item())
            unusual = {"front view": 0.8, "side view": 1.2, "back view": 1.6}[phrases[0]]
            view = phrases[int(d_phrase * len(phrases))] if d_view < view_words * unusual else None
            text = caption(KIND_NAMES[self.kind[i]], COLOUR_NAMES[w], view, TEMPLATES[int(d_template * len(TEMPLATES))])
            captions.append("" if d_null < null else text)
        return pictures, captions, index, which
