"""GeoDream (arXiv 2311.17971): views of a multi-view prior make a cost volume, which a 2D prior moves; then a mesh made of it.

``PAPER`` holds the official code's numbers (GD), counted in iterations; where the paper (P) says otherwise that is named. Where
no source is named, it is ours. Left out: half resolution in the first twentieth of the run. It wants One-2-3-45's checkpoint,
which is a pickle, as the file :data:`LOD0` (:func:`dreamlab.one2345.convert_pickle`). ``TOY`` is the same list with a laptop's
numbers, on the bundled priors and network; its texture begins with the colours of the views, where the paper's begins anew.
"""
from functools import partial

from dreamlab.cameras import Orbit
from dreamlab.losses import Sparse, Surface
from dreamlab.methods import dreamflow
from dreamlab.methods.baselines import BASELINES
from dreamlab.one2345 import FOV_DEG
from dreamlab.pipeline import Method, Part
from dreamlab.priors.critic import lora
from dreamlab.rules import SDS, VSD
from dreamlab.scenes.base import own
from dreamlab.scenes.neus import cost_volume, neus_to_tets
from dreamlab.scenes.textured import texture
from dreamlab.schedules import Annealed, Cosine, balanced, sigma2
from dreamlab.stage import normals
from dreamlab.toybox.dataset import backgrounds
from dreamlab.viewpoints import Circle, Near


def falling(rate: float) -> tuple:
    """The texture's rate over the 20,000 iterations: flat, and from 3500 on the way to a twentieth at 23,500."""
    return (0.0, rate), (0.175, rate), (1.0, round(rate * (1 - 0.95 * 0.825), 9))


LOD0 = "one-2-3-45.safetensors"
VSD_PAPER = partial(VSD.for_prior, guidance=7.5, weight=sigma2, critic=partial(lora, base=dreamflow.V_MODEL, camera=True))  # GD

PAPER = {
    "neus": Part(
        prior="sd-2.1-base", start=partial(
            cost_volume, views="ashawkey/mvdream-sd2.1-diffusers", turn="bennyguo/zero123-xl-diffusers", viewpoints=Near(),  # P
            network=LOD0, fov_deg=FOV_DEG, guidance=10.0, coloured=False, sky=True, samples=512, levels=16, finest=4096,
            hidden=64),  # GD
        rule=VSD_PAPER, timesteps=Annealed(980, 500, since=0.25, until=0.25),  # GD: at 5000 of 20,000
        cameras=Orbit((-35.0, 35.0), (2.0, 3.0), (40.0, 60.0)),  # GD: 1.0 to 1.5 from an object half as large
        rates={"volume": ((0.0, 1e-3), (0.175, 1e-3), (0.175, 1e-4), (1.0, 8.425e-4)),  # P, Fig. 6, as GD counts it
               "grid": falling(5e-3), "color": falling(5e-4), "background": 1e-3},
        background=own,  # GD, but for the half of the steps in which it shows a random colour
        regularise=Sparse(10.0, opaque=1000.0, since=1 / 6),  # GD
        steps=20_000, views=1, resolution=512),  # GD
    "geometry": Part(
        prior="sd-2.1-base", start=partial(neus_to_tets, of="neus", cells=256),  # GD
        rule=partial(SDS.for_prior, guidance=101.0, weight=sigma2),  # GD, where P says VSD
        timesteps=Annealed(980, 500, since=0.3, until=0.3), look=normals,  # GD: at 2000 of 6500
        cameras=Orbit((-40.0, 30.0), (2.0, 2.5), (40.0, 60.0)), regularise=Surface(1e4, 1e4),  # GD
        rates={"sdf": 1e-3, "offsets": 1e-3}, steps=6500, views=8, resolution=512),  # GD
    "texture": Part(
        prior="sd-2.1-base", start=partial(texture, of="geometry"), rule=partial(VSD_PAPER, critic_rate=2.5e-5),  # GD
        timesteps=Annealed(980, 400, since=0.1, until=0.1),  # GD: at 3000 of 30,000
        cameras=Orbit((-10.0, 60.0), (2.0, 2.5), (40.0, 60.0)),  # GD
        rates={"grid": 2.5e-3, "color": 2.5e-4}, steps=30_000, views=1, resolution=1024),  # GD
}

TOY = {
    "neus": PAPER["neus"].set(dreamflow.VIEWS | {
        "prior": "toybox", "start": partial(cost_volume, viewpoints=Circle(), samples=48, levels=4, finest=64, hidden=32),
        "rule": partial(VSD.for_prior, guidance=3.0, weight=balanced), "timesteps": Annealed(600, 150, until=0.8),
        "rates": {"volume": ((0.0, 1e-2), (0.175, 1e-2), (0.175, 1e-3), (1.0, 8.425e-3)),
                  "grid": falling(1e-2), "color": falling(3e-3)},
        "background": backgrounds, "regularise": None, "steps": 100, "views": 2}),
    "geometry": PAPER["geometry"].set(dreamflow.VIEWS | {
        "prior": "toybox-normals", "start.cells": 32, "rule": partial(SDS.for_prior, guidance=4.5, weight=balanced),
        "timesteps": Annealed(500, 100, until=1.0), "decay": Cosine(), "regularise": None, "steps": 100,
        "rates": {"sdf": (1.5e-3, 3e-4), "offsets": (1e-2, 2e-3)}}),
    "texture": PAPER["texture"].set(dreamflow.VIEWS | {
        "prior": "toybox", "rule": partial(VSD.for_prior, guidance=3.0, weight=balanced), "decay": Cosine(),
        "timesteps": Annealed(500, 100, until=1.0), "steps": 100, "rates": {"grid": 1e-2, "color": 3e-3}}),
}

# One-2-3-45 (arXiv 2306.16928): a picture is turned, the volume of its views is the result, and nothing refines it. The views
# are our circle; its own are 8, with 4 neighbours of each 10 degrees away.
ONE2345 = {"shape": PAPER["neus"].set({
    "start.views": "sd-2.1-base", "start.guidance": 7.5, "start.viewpoints": Circle(8, 0.0, 25.0), "start.coloured": True,
    "start.sky": False,
    "rates": {"volume": 1e-3}, "background": backgrounds, "regularise": None, "steps": 0})}

GEODREAM = Method("geodream", "GeoDream: a cost volume of several views moved by VSD, then its mesh", PAPER, TOY)
# Magic123 (arXiv 2306.17843) mixes the residuals of a 2D prior and of one that turns a picture, 1 to 40 at guidances of 100 and
# 5. Here a multi-view prior that reads the text is in that one's place, both count the same, and there is no picture.
MVDREAM = next(method for method in BASELINES if method.name == "mvdream")
MAGIC123 = Method("magic123", "Magic123's mixing: SDS from a multi-view prior and a 2D prior at once", {
    "shape": MVDREAM.paper["shape"].set(prior=f"{MVDREAM.paper['shape'].prior} + sd-2.1-base")}, {
    "shape": MVDREAM.toy["shape"].set(prior=f"{MVDREAM.toy['shape'].prior} + toybox")})
ONE_2_3_45 = Method("one-2-3-45", "One-2-3-45: the cost volume of a picture that is turned, as it is", ONE2345,
                    {"shape": TOY["neus"].set({"start.views": "toybox", "steps": 0})})
