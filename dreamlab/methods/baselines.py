"""What other methods are, said in DreamMapping's parts: each is the settings in which it differs.

``BASELINES`` are first stages, of one part; ``WITH_MESH`` go on to a mesh, or begin with one. The values are those of the
official code. Cameras are in this project's units, where an object fills a ball of radius 0.8. To add one: its entry here.
"""
from functools import partial

from dreamlab.cameras import Orbit, Rings
from dreamlab.learner import Adam
from dreamlab.losses import Surface
from dreamlab.methods import dreamflow
from dreamlab.methods.dreammapping import PAPER, PAPER_FIELD, toy
from dreamlab.pipeline import Method, Part
from dreamlab.prompts import ViewPrompts
from dreamlab.rules import SDS, VSD
from dreamlab.scenes.growth import Growth
from dreamlab.scenes.latent import latent_blob
from dreamlab.scenes.tets import nerf_to_tets, sphere
from dreamlab.scenes.textured import given, texture
from dreamlab.schedules import Annealed, Cosine, alpha_sigma2, balanced, noise_to_signal, one, sigma2
from dreamlab.settings import keep
from dreamlab.stage import latents, normals
from dreamlab.toybox.dataset import grey

# What threestudio's methods share: a radiance field, one view a step, plain prompts, none of LucidDreamer's regularisers
THREESTUDIO = PAPER_FIELD.set({
    "resolution": 64, "views": 1, "prompts": partial(ViewPrompts), "optimiser": Adam(), "regularise": None})

# What several of them stay away from
UGLY = ("ugly, bad anatomy, blurry, pixelated obscure, unnatural colors, poor lighting, dull, and unclear, cropped, lowres, "
        "low quality, artifacts, duplicate, morbid, mutilated, poorly drawn face, deformed, dehydrated, bad proportions")


def baseline(name: str, about: str, paper: Part) -> Method:
    return Method(name, about, {"shape": paper}, {"shape": toy(paper)})


# MVDream (arXiv 2308.16512), its code's numbers, at the first resolution and two objects a step throughout. There the field of
# view is 15 to 60 degrees and the distance goes with it; the smallest t falls too, from 980 over as many steps.
MVDREAM = THREESTUDIO.set({
    "prior": "ashawkey/mvdream-sd2.1-diffusers", "prompts": partial(ViewPrompts, views=False, null=UGLY),
    "rule": partial(SDS.for_prior, guidance=50.0, weight=noise_to_signal, rescale=0.5),
    "timesteps": Annealed(980, 500, until=0.8, shared=True), "steps": 10_000, "views": 8, "resolution": 64,
    "cameras": Rings((0.0, 30.0), (2.2, 2.75)), "rates": {"grid": 1e-2, "density": 1e-3, "color": 1e-3}})
# What a multi-view prior of the toybox has seen: rings at one distance, over grey, and no view words
TOGETHER = {
    "prior": "toybox-multiview", "prompts": partial(ViewPrompts, views=False), "cameras": Rings((-5.0, 35.0), (2.4, 2.4)),
    "background": grey, "rule.guidance": 4.0, "timesteps": Annealed(950, 300, until=0.8, shared=True), "views": 4}


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
    # Latent-NeRF (arXiv 2211.07600), sketches and meshes as guides apart. Its first blob is smaller, and its prior was Stable
    # Diffusion 1.4. Left out: the learnt background, and the loss on how sharp the silhouette is.
    baseline("latent-nerf", "Latent-NeRF: a radiance field of latents by SDS, without the encoder", THREESTUDIO.set({
        "start": partial(latent_blob, levels=16, finest=2048, hidden=64, samples=128), "look": latents,
        "rule": partial(SDS.for_prior, guidance=100.0, weight=alpha_sigma2), "timesteps": Annealed(980, 980, until=0.3),
        "steps": 5000, "cameras": Orbit((-60.0, 89.0), (1.0, 1.5), (40.0, 70.0)),
        "rates": {"grid": 1e-2, "density": 1e-3, "color": 1e-3}})),
    Method("mvdream", "MVDream: a radiance field by SDS from a multi-view prior", {"shape": MVDREAM},
           {"shape": toy(MVDREAM).set(TOGETHER)}),
    # LucidDreamer (arXiv 2311.11284). Its points come from Point-E; here from DreamMapping's points prior.
    baseline("luciddreamer", "LucidDreamer: Gaussians from points by ISM", PAPER.set(rule="ISM")),
    # GaussianDreamer (arXiv 2310.08529). Left out: its sparsity loss, the clipping of its gradient, and its black background.
    # Its threshold for growth is on a pull that it takes the norm of after adding views, which is smaller than ours.
    baseline("gaussiandreamer", "GaussianDreamer: Gaussians from points by SDS", PAPER.set({
        "rule": partial(SDS.for_prior, guidance=101.0, weight=sigma2),
        "timesteps": Annealed(980, 550, since=500 / 1200, until=500 / 1200), "steps": 1200, "resolution": 1024,
        "prompts": partial(ViewPrompts, null=f"{UGLY}, unfocused"),
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

# With a mesh. Left out of all, where the original has it: shading, a learnt background, the loss on a field's normals, jitter.

ONE = {method.name: method.paper["shape"] for method in BASELINES}
MESH = THREESTUDIO.set({"rule": partial(SDS.for_prior, guidance=101.0, weight=sigma2), "resolution": 512})  # and AdamW as Adam
TETS = partial(nerf_to_tets, of="nerf", cells=128)


def toy_mesh(part: Part, anew: bool = False) -> Part:
    """A part with a mesh for the toybox: what makes it, its start and its rule, and the numbers of DreamFlow's toy parts; or,
    where it begins ``anew`` as a ball or grey, higher t, larger rates and twice the steps."""
    geometry, colour = dreamflow.TOY["geometry"], dreamflow.TOY["texture"]
    rates = geometry.rates | colour.rates | ({"sdf": (1.5e-2, 3e-3), "grid": 1e-1, "color": 2e-2} if anew else {})
    return part.set(dreamflow.VIEWS | {
        "prior": (geometry if part.look is normals else colour).prior, "decay": Cosine(), "regularise": None,
        "timesteps": Annealed(950, 300, until=0.8) if anew else Annealed(500, 100, until=1.0), "steps": 200 if anew else 100,
        "start": keep(part.start, cells=32, levels=4, finest=64, hidden=32),
        "rule": keep(part.rule, guidance=4.5, weight=balanced), "rates": {name: rates[name] for name in part.rates}})


# Magic3D (arXiv 2211.10440), threestudio's numbers for Stable Diffusion; its first part is DreamFusion's, but for the weight
# and for four times the samples.
MAGIC3D = {
    "nerf": ONE["dreamfusion"].set({"rule.weight": one, "start.samples": 512}),
    "refine": MESH.set({
        "start": TETS, "timesteps": Annealed(500, 500, until=1.0), "steps": 5000, "regularise": Surface(1e4, 0.0),
        "cameras": Orbit((-10.0, 45.0), (1.5, 2.0), (30.0, 45.0)),
        "rates": {"sdf": 1e-2, "offsets": 1e-2, "grid": 1e-2, "color": 1e-2}})}

# Fantasia3D (arXiv 2303.13873) with threestudio's numbers. Its distances are a network's, ours lie on a grid. Left out: its
# first 1000 steps, which show the prior normals and mask as if they were latents; materials and light: ours is plain colour.
FANTASIA3D = {
    "geometry": MESH.set({
        "start": partial(sphere, radius=0.5, cells=128), "rule.weight": alpha_sigma2, "look": normals, "steps": 10_000,
        "timesteps": Annealed(500, 500, until=1.0), "cameras": Orbit((-10.0, 45.0), (3.0, 3.0), (25.0, 45.0)),
        "rates": {"sdf": 1e-3, "offsets": 1e-3}}),
    "texture": MESH.set({
        "start": partial(texture, of="geometry"), "timesteps": Annealed(500, 500, until=1.0), "steps": 5000,
        "cameras": Orbit((-10.0, 45.0), (3.0, 3.0), (25.0, 45.0)), "rates": {"grid": 1e-2, "color": 1e-2}})}

# ProlificDreamer (arXiv 2305.16213), all three stages, with threestudio's numbers.
NEAR = Orbit((-10.0, 45.0), (1.0, 1.5), (40.0, 70.0))
PROLIFICDREAMER = {
    "nerf": ONE["prolificdreamer"],
    "geometry": MESH.set({
        "start": TETS, "look": normals, "timesteps": Annealed(980, 500, since=1 / 3, until=1 / 3), "steps": 15_000,
        "cameras": NEAR, "regularise": Surface(1e4, 1e4), "rates": {"sdf": 5e-3, "offsets": 5e-3}}),
    "texture": MESH.set({
        "start": partial(texture, of="geometry"), "rule": partial(VSD.for_prior, guidance=7.5, weight=sigma2), "steps": 30_000,
        "timesteps": Annealed(980, 500, since=1 / 6, until=1 / 6), "cameras": NEAR, "rates": {"grid": 1e-2, "color": 1e-3}})}

# The texture of a mesh that one has: Fantasia3D's second part with a custom mesh, in threestudio; TextMesh (arXiv 2304.12439)
# ends likewise.
TEXTURE_MESH = {"texture": FANTASIA3D["texture"].set(start=partial(given))}

WITH_MESH = [
    Method("magic3d", "Magic3D: a radiance field, and its mesh refined, both by SDS", MAGIC3D,
           {"nerf": toy(MAGIC3D["nerf"]), "refine": toy_mesh(MAGIC3D["refine"])}),
    Method("fantasia3d", "Fantasia3D: a ball's shape by SDS on normals, then its texture", FANTASIA3D,
           {name: toy_mesh(part, anew=True) for name, part in FANTASIA3D.items()}),
    Method("prolificdreamer-mesh", "ProlificDreamer: a field by VSD, its mesh's shape by SDS on normals, texture by VSD",
           PROLIFICDREAMER, {"nerf": toy(PROLIFICDREAMER["nerf"]),
                             **{name: toy_mesh(PROLIFICDREAMER[name]) for name in ("geometry", "texture")}}),
    Method("texture-mesh", "the texture of a mesh that you have, by SDS (--mesh FILE)", TEXTURE_MESH,
           {"texture": toy_mesh(TEXTURE_MESH["texture"], anew=True)}),
]
