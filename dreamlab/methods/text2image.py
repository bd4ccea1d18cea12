"""Text to pictures: the whole of score distillation without any 3D, for one rule after another.

Four pictures are optimised side by side: rules that learn the distribution of the renders see all of them, the others treat
each alone. The values are ours, for the toybox prior; a prior that is named in its place is distilled with the same.
"""
from functools import partial

from dreamlab.pipeline import Method, Part
from dreamlab.prompts import ViewPrompts
from dreamlab.rules import VDM
from dreamlab.scenes.picture import latents as in_latents
from dreamlab.scenes.picture import pixels as in_pixels
from dreamlab.schedules import Annealed, Cosine
from dreamlab.stage import latents, rgb

TOY = Part(
    prior="toybox", start=partial(in_latents, pictures=4), look=latents, rule=partial(VDM.for_prior, guidance=4.5),
    timesteps=Annealed(980, 300, until=0.8), prompts=partial(ViewPrompts, views=False), rates={"latents": 0.05},
    decay=Cosine(), steps=300)
TOY_PIXELS = TOY.set({"start": partial(in_pixels, pictures=4), "look": rgb, "rates": {"pixels": 0.05}})

TEXT2IMAGE = Method("text2image", "four pictures in the prior's latents, without any 3D",
                    {"pictures": TOY.set(prior="sd-2.1-base")}, {"pictures": TOY})
PIXELS = Method("text2image-pixels", "the same in pixels, through the prior's encoder",
                {"pictures": TOY_PIXELS.set(prior="sd-2.1-base")}, {"pictures": TOY_PIXELS})
