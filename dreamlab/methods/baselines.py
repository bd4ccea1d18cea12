"""What other methods are, said in DreamMapping's parts: each is the settings in which it differs.

First stages only: no mesh. The values are those of the official code. Cameras are in this project's units, where an object
fills a ball of radius 0.8. To add one: its entry here.
"""
from functools import partial

from dreamlab.cameras import Orbit
from dreamlab.learner import Adam
from dreamlab.methods.dreammapping import PAPER, PAPER_FIELD, toy
from dreamlab.pipeline import Method, Part
from dreamlab.prompts import ViewPrompts
from dreamlab.rules import SDS, VSD
from dreamlab.scenes.growth import Growth
from dreamlab.schedules import Annealed, sigma2

# What threestudio's methods share: a radiance field, one view a step, plain prompts, none of LucidDreamer's regularisers
THREESTUDIO = PAPER_FIELD.set({
    "resolution": 64, "views": 1, "prompts": partial(ViewPrompts), "optimiser": Adam(), "regularise": None})


def baseline(name: str, about: str, paper: Part) -> Method:
    return Method(name, about, {"shape": paper}, {"shape": toy(paper)})


BASELINES = [
    # DreamFusion (arXiv 2209.14988) with threestudio's numbers for Stable Diffusion, whose guidance 100 is 101 here. Its
    # shading and the regularisers that go with it are left out.
    baseline("dreamfusion", "DreamFusion: a radiance field by SDS", THREESTUDIO.set({
        "rule": partial(SDS.for_prior, guidance=101.0, weight=sigma2), "timesteps": Annealed(980, 980, until=0.3),
        "steps": 10_000, "cameras": Orbit((-10.0, 45.0), (1.5, 2.0), (40.0, 70.0)),
        "rates": {"grid": 1e-2, "density": 1e-2, "color": 1e-2}})),
    # ProlificDreamer (arXiv 2305.16213), stage one, with threestudio's numbers, at its first resolution throughout.
    baseline("prolificdreamer", "ProlificDreamer: a radiance field by VSD", THREESTUDIO.set({
        "rule": partial(VSD.for_prior, guidance=7.5, weight=sigma2), "timesteps": Annealed(980, 500, since=0.2, until=0.2),
        "steps": 25_000, "cameras": Orbit((-10.0, 45.0), (1.0, 1.5), (40.0, 70.0))})),
    # LucidDreamer (arXiv 2311.11284). Its points come from Point-E; here from DreamMapping's points prior.
    baseline("luciddreamer", "LucidDreamer: Gaussians from points by ISM", PAPER.set(rule="ISM")),
    # GaussianDreamer (arXiv 2310.08529). Left out: its sparsity loss, the clipping of its gradient, and its black background.
    # Its threshold for growth is on a pull that it takes the norm of after adding views, which is smaller than ours.
    baseline("gaussiandreamer", "GaussianDreamer: Gaussians from points by SDS", PAPER.set({
        "rule": partial(SDS.for_prior, guidance=101.0, weight=sigma2),
        "timesteps": Annealed(980, 550, since=500 / 1200, until=500 / 1200), "steps": 1200, "resolution": 1024,
        "prompts": partial(ViewPrompts, null=(
            "ugly, bad anatomy, blurry, pixelated obscure, unnatural colors, poor lighting, dull, and unclear, cropped, "
            "lowres, low quality, artifacts, duplicate, morbid, mutilated, poorly drawn face, deformed, dehydrated, "
            "bad proportions, unfocused")),
        "optimiser": Adam(), "regularise": None, "cameras": Orbit((-10.0, 45.0), (1.5, 4.0), (40.0, 70.0)),
        "growth": Growth(since=300, until=900, gradient=2e-4, split=0.04, opacity=0.05, wide=0.4, wide_since=500, reset=None,
                         reset_to=0.1),
        "rates": {"means": (5e-5, 2.5e-5), "scales": 5e-3, "quats": 1e-3, "opacities": 1e-2, "colors": 1.25e-2}})),
    # DreamGaussian (arXiv 2309.16653), stage one of text to 3D: a ball, and t falling to 20. There t itself falls, here the
    # largest t that may be drawn. There pictures begin with 128 pixels, and the centres' rate has fallen after 300 steps.
    baseline("dreamgaussian", "DreamGaussian: Gaussians from a ball by SDS", PAPER.set({
        "start": "ball", "start.points": 5000, "rule": partial(SDS.for_prior, guidance=100.0, weight=sigma2),
        "timesteps": Annealed(980, 20, until=1.0, shared=True), "steps": 500, "views": 1, "prompts": partial(ViewPrompts),
        "regularise": None, "cameras": Orbit((-30.0, 30.0), (2.5, 2.5), 49.1),
        "growth": Growth(since=0, every=50, gradient=1e-2, split=0.04, opacity=0.01, wide=0.4, wide_since=0, reset=700,
                         reset_to=0.02),
        "rates": {"means": (1e-3, 2e-5), "scales": 5e-3, "quats": 5e-3, "opacities": 5e-2, "colors": 1e-2}})),
]
