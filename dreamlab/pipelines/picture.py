"""Text to pictures: the whole of score distillation without any 3D, for one rule after another.

``Settings()`` is for the toybox prior; ``prior`` may name any other. Four pictures are optimised side by side: rules that learn
the distribution of the renders see all of them, the others treat each alone.
"""
import math
from dataclasses import dataclass

from dreamlab import rules
from dreamlab.noise import randn, seeded
from dreamlab.priors.base import Prior
from dreamlab.priors.diffusion import DiffusionPrior, usual_device
from dreamlab.prompts import ViewPrompts
from dreamlab.rules import RULES
from dreamlab.scenes.picture import Picture
from dreamlab.schedules import WEIGHTS, Annealed, Cosine, Grid
from dreamlab.stage import Stage


@dataclass(frozen=True)
class Settings:
    """One run. Where no source is named, the value is ours."""

    prompt: str
    rule: str = "VDM"  # a name in dreamlab.rules.RULES
    seed: int = 0
    prior: str = "toybox"
    pictures: int = 4
    latent: bool = True  # optimise the prior's latents; False: pixels, through its encoder
    steps: int = 300
    guidance: float = 4.5  # diffusers' s, for the rules that have one
    weight: str | None = None  # w(t), a name in schedules.py; None: the rule's own
    rate: float = 0.05
    critic_rate: float = 1e-2  # of LoRA and of LODS's embedding; published 1e-4 and 1e-5, for twenty times as many steps
    t_max: tuple[int, int] = (980, 300)
    t_until: float = 0.8

    def __post_init__(self):
        if self.rule not in RULES:
            raise ValueError(f"there is no rule {self.rule!r}; there is: {', '.join(RULES)}")
        if self.weight not in (None, *WEIGHTS):
            raise ValueError(f"there is no weight {self.weight!r}; there is: {', '.join(WEIGHTS)}")


def build(settings, prior: Prior, **more) -> rules.Rule:
    """The rule that a pipeline's settings name, with those of them that it has; ``more`` goes to its ``for_prior``."""
    rule, steps = getattr(rules, settings.rule), max(settings.steps, 1)
    views = math.ceil(steps / 1000)  # a grid has no t twice: runs of over 1000 steps stay at each
    wanted = {"guidance": settings.guidance, "weight": WEIGHTS.get(settings.weight),
              "grid": Grid(points=math.ceil(steps / views), views=views)}
    fields = rule.__dataclass_fields__
    chosen = {k: v for k, v in wanted.items() if k in fields and v is not None}
    return rule.for_prior(prior, **chosen, **more, **({"critic_rate": settings.critic_rate} if "critic" in fields else {}))


def stage(settings: Settings, prior: Prior | None = None) -> Stage:
    """The one stage, ready to :func:`dreamlab.stage.run`; ``prior`` saves loading it again."""
    prior = prior or DiffusionPrior.load(settings.prior, usual_device(settings.prior))
    rule, n = build(settings, prior), settings.pictures
    noise = randn((n, *prior.shape), seeded(settings.seed, -1)).to(prior.null.device)
    scene = Picture(noise, prior.decode) if settings.latent else Picture(prior.decode(noise))
    timesteps = getattr(rule, "grid", None) or Annealed(*settings.t_max, until=settings.t_until)
    return Stage(scene, prior, rule, ViewPrompts(prior, settings.prompt, views=False), timesteps,
                 rates={next(iter(scene.parameters())): settings.rate}, decay=Cosine(), steps=settings.steps, views=n,
                 resolution=scene.render().rgb.shape[1], seed=settings.seed)
