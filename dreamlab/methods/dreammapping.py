"""DreamMapping (arXiv 2409.05099): Gaussians from a points prior, distilled by VDM with DCA; the same rule on a radiance field.

``PAPER`` holds the paper's numbers, and where it gives none those of LucidDreamer (LD, arXiv 2311.11284), its code base;
``toy`` turns them into those for the toybox on a laptop, here and for other methods. Where no source is named, it is ours.
Left out of LD's recipe: flipped batches, noise on the scales, and guiding the disparity instead of the colour at times. Its
backgrounds are white or of any colour; here they are the toybox's, light and dark greys with a tint.
"""
from dataclasses import replace
from functools import partial

from dreamlab.cameras import LucidOrbit
from dreamlab.learner import Adam
from dreamlab.losses import Smooth
from dreamlab.pipeline import Method, Part
from dreamlab.prompts import ViewPrompts
from dreamlab.rules.vdm import VDM
from dreamlab.scenes.convert import surface
from dreamlab.scenes.gaussians import Gaussians, points
from dreamlab.scenes.growth import Growth
from dreamlab.scenes.nerf import blob
from dreamlab.schedules import Annealed, Cosine, balanced, noise_to_signal
from dreamlab.settings import keep, name_of

NEGATIVE = ("unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, dark, low-resolution, "
            "oversaturation")  # LD: in the place of the null prompt

PAPER = Part(
    prior="sd-2.1-base",  # paper, section 4.2
    start=partial(
        points,
        prior="shap-e",  # paper, section 3.4
        points=50_000,  # paper, section 4.2: Shap-E's points, upsampled
        opacity=0.1,  # LD: of a new Gaussian
        spread=1.0),  # LD: width of a new Gaussian in rms distances to its three neighbours
    rule=partial(
        VDM.for_prior,  # paper; its operator is U-Lite
        guidance=7.5,  # paper's 7.5, in diffusers' convention (see rules/vdm.py)
        weight=noise_to_signal,  # LD
        lr=0.01,  # paper, section 4.2: of the operator
        dca=True,  # paper, Eq. 18
        cutoff=300),  # paper, Eq. 18
    timesteps=Annealed(980, 500, until=0.3, shared=True),  # LD: one t for all views of a step
    prompts=partial(ViewPrompts, null=NEGATIVE, interpolate=True),  # LD; Perp-Neg it has for animals and heads only
    cameras=LucidOrbit(),  # LD
    growth=Growth(),  # LD
    rates={"means": (5.6e-4, 5.6e-6),  # LD: 1.6e-4 times its spatial scale 3.5
           "scales": (5e-3, 1e-3), "quats": (1e-3, 2e-4), "opacities": 5e-2, "colors": (5e-3, 3e-3)},  # LD
    optimiser=Adam(betas=(0.9, 0.999)),  # LD
    regularise=Smooth(2.5, 2.5),  # LD
    steps=5000,  # paper, section 4.2
    views=4,  # paper, section 4.2: the batch
    resolution=512)  # LD

PAPER_FIELD = PAPER.set({  # paper, Fig. 9
    "start": partial(blob, levels=16, finest=4096,  # arXiv 2201.05989
                     hidden=64, samples=128, radius=1.0),
    "rates": {"grid": 1e-2, "density": 1e-3, "color": 1e-3},  # threestudio's ProlificDreamer
    "growth": None, "regularise.scale": 0.0})  # 512 pixels need some 50 GB for 4 such views: give it 64, as its baselines have

# How a scene begins on the toybox -> its options, its rates, and t: a ball or a blob needs higher t for longer
TOY = {
    "points": ({"prior": "toybox", "points": 3000, "opacity": 0.5, "spread": 0.6}, Gaussians.rates,
               Annealed(600, 150, until=0.8)),
    "ball": ({"points": 3000, "opacity": 0.3, "spread": 1.0}, Gaussians.rates, Annealed(950, 300, until=0.8)),
    "blob": ({"levels": 4, "finest": 64, "hidden": 32, "samples": 32, "radius": 0.85},
             {"grid": 2e-2, "density": 3e-3, "color": 3e-3}, Annealed(950, 300, until=0.8)),
}
TOY["latent_blob"] = TOY["blob"]


def toy(part: Part) -> Part:
    """The same part for the toybox on two CPU cores: what makes it, its rule and its start, and a laptop's numbers.

    No growth, no regularisers, cameras that the prior has seen, and view words as it has read them.
    """
    begin, rates, timesteps = TOY[name_of(part.start)]
    return replace(
        part, prior="toybox", start=partial(part.start.func, **begin), rule=keep(part.rule, guidance=3.0, weight=balanced),
        timesteps=timesteps, prompts=partial(ViewPrompts), cameras=None, growth=None, rates=rates, optimiser=Adam(),
        decay=Cosine(), regularise=None, steps=200, resolution=64)


PAPER_BALL = PAPER.set(start="ball")

DREAMMAPPING = Method("dreammapping", "DreamMapping: Gaussians at the points of a points prior, VDM with DCA",
                      {"shape": PAPER}, {"shape": toy(PAPER)})
BALL = Method("ball", "the same from a grey ball, without a points prior: shows Janus",
              {"shape": PAPER_BALL}, {"shape": toy(PAPER_BALL)})
FIELD = Method("field", "DreamMapping on a radiance field (its Fig. 9)", {"shape": PAPER_FIELD}, {"shape": toy(PAPER_FIELD)})

# Ours: the field finds a shape from nothing, and Gaussians that start on its surface take over
ON_SURFACE = partial(surface, of="field", points=3000, opacity=0.5, spread=0.6)
FIELD_TO_GAUSSIANS = Method(
    "field-to-gaussians", "two parts: a radiance field, then Gaussians that start on its surface",
    {"field": PAPER_FIELD.set(resolution=64), "gaussians": PAPER.set({"start": ON_SURFACE, "start.points": 50_000})},
    {"field": toy(PAPER_FIELD), "gaussians": replace(toy(PAPER), start=ON_SURFACE)})
