"""Priors over coarse shapes: prompt -> coloured point cloud. The bundled one plays Shap-E's role in the toybox.

It is an occupancy field read on a coarse grid: for a point p and the prompt's words, a small network gives the logit of
"inside" and a colour. It is trained on averages over cells of a 16^3 grid, so it knows no detail finer than that: rough
body, rough colours, no face. That is the point: the 2D prior has to add the rest.
"""
import json
import os
import re
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dreamlab.checks import Name, checked, shown
from dreamlab.files import load_weights
from dreamlab.priors import shap_e

BUNDLED = {"toybox": Path(__file__).parent.parent / "toybox/weights/points"}
MEND = "use 'toybox', the bundled one (install dreamlab again if that is gone), or a folder of `dreamlab toybox train points`"
GRID, EXTENT = 16, 0.9  # cells per axis of the cube [-EXTENT, EXTENT]^3


def cell_centres(n: int = GRID) -> Float[Tensor, "cells 3"]:
    axis = ((torch.arange(n) + 0.5) / n * 2 - 1) * EXTENT
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).view(-1, 3)


class PointField(nn.Module):
    """(points (b, n, 3), bag of words (b, width)) -> logits of (inside, r, g, b), (b, n, 4). Words steer it layer by layer."""

    def __init__(self, words: int, width: int = 192, frequencies: int = 4, layers: int = 3):
        super().__init__()
        self.frequencies = frequencies
        self.embedding = nn.Embedding(words, width)
        self.point = nn.Linear(3 + 6 * frequencies, width)
        self.mix = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.film = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(layers))
        self.head = nn.Linear(width, 4)

    def forward(self, p: Float[Tensor, "b n 3"], bag: Float[Tensor, "b width"]) -> Float[Tensor, "b n 4"]:
        waves = torch.cat([2.0**k * torch.pi / 2 * p for k in range(self.frequencies)], -1)
        h = self.point(torch.cat([p, waves.sin(), waves.cos()], -1))
        for mix, film in zip(self.mix, self.film, strict=True):
            scale, shift = film(bag)[:, None].chunk(2, -1)
            h = h + mix(nn.functional.silu(h * (1 + scale) + shift))
        return self.head(h)


class PointsPrior:
    """``PointsPrior.load()("a red mug", n, generator) -> points (n, 3), colours (n, 3)`` in [0, 1].

    The words are summed as a bag, so "a toy red mug" and "a mug, red" ask for the same; words it does not know are passed
    over, and a prompt without any known word is a ``ValueError`` that lists them.
    """

    def __init__(self, words: list[str], field: PointField):
        self.words, self.field = list(words), field

    @classmethod
    def load(cls, name: str | Path = "toybox") -> "PointsPrior":
        """The bundled points prior, or one from a folder written by ``dreamlab toybox train points``.

        FileNotFoundError for what is missing or damaged, ``files.Refused`` (a ValueError) for weights of something else.
        """
        folder = BUNDLED.get(str(name), Path(name))
        if not os.path.exists(folder / "words.json"):
            raise FileNotFoundError(f"no points prior in {folder}, it has no words.json: {MEND}")
        try:
            words = json.loads((folder / "words.json").read_text())
            field = PointField(len(words))
        except (ValueError, TypeError, RuntimeError, OSError) as error:
            raise FileNotFoundError(f"the points prior in {folder} is damaged, look at its words.json: {MEND}") from error
        weights = load_weights(folder / "model.safetensors", MEND, like=field.state_dict())
        field.load_state_dict({k: v.float() for k, v in weights.items()})
        return cls(words, field.eval().requires_grad_(False))

    def bag(self, prompt: str) -> Float[Tensor, "1 width"]:
        """The sum of the embeddings of the prompt's known words."""
        known = [self.words.index(w) for w in re.findall(r"[a-z]+", prompt.lower()) if w in self.words]
        if not known:
            raise ValueError(f"the points prior knows no word of {shown(prompt)}: use some of {', '.join(self.words)}")
        return self.field.embedding(torch.tensor(known)).sum(0, keepdim=True)

    @torch.no_grad()
    def __call__(self, prompt: str, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """n points drawn from the cells by their chance of being inside, jittered within the cell, with the cell's colour."""
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        centres = cell_centres()
        inside, rgb = self.field(centres[None], self.bag(prompt))[0].sigmoid().split([1, 3], -1)
        cell = torch.multinomial(inside[:, 0].clamp_min(0.02) - 0.02, n, replacement=True, generator=generator)
        jitter = (torch.rand(n, 3, generator=generator) - 0.5) * (2 * EXTENT / GRID)
        return centres[cell] + jitter, rgb[cell]

    @torch.no_grad()
    def shell(self, prompt: str, points: Tensor, places: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n"]:
        """How much more of a cell around each place is shell than at the surface, where that is 0: 0.35, and beside what is
        thinner than a cell (a nose, an arm) 0.4 of the fullest cell next to it, at least 0.12. ``points`` are not needed."""
        bag, chunks = self.bag(prompt), places.reshape(1, -1, 3).split(4096, 1)  # that a processor's cache holds
        share = torch.cat([self.field(some, bag)[0, :, 0] for some in chunks]).sigmoid().view(places.shape[:-1])
        cells = self.field(cell_centres()[None], bag)[0, :, 0].sigmoid().view(1, 1, GRID, GRID, GRID)
        xyz = places.view(1, -1, 1, 1, 3).flip(-1) / EXTENT  # grid_sample's first coordinate is the last axis
        fullest = nn.functional.grid_sample(nn.functional.max_pool3d(cells, 3, 1, 1), xyz, padding_mode="border",
                                            align_corners=False)
        return share - (0.4 * fullest.view(share.shape)).clamp(0.12, 0.35)


@checked
def load_points(name: Name | Path = "toybox", device: str | torch.device = "cpu") -> "PointsPrior | shap_e.ShapE":
    """``load_points(name)(prompt, n, generator) -> points (n, 3), colours (n, 3)`` in [0, 1], on the CPU: the prior of a name.

    ``name``: "toybox" (bundled), "shap-e" (the hub's, downloaded once), a folder of a diffusers ``ShapEPipeline``, or one
    of ``dreamlab toybox train points``. Shap-E runs on ``device``; the small field always runs on the CPU.
    FileNotFoundError says what is missing.
    """
    folder = shap_e.fetch() if str(name) == "shap-e" else Path(name)
    if os.path.exists(folder / "model_index.json"):
        return shap_e.ShapE.load(folder, device)
    return PointsPrior.load(name)
