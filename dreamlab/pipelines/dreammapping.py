"""DreamMapping (arXiv 2409.05099): Gaussians from a points prior, distilled by VDM with DCA; the same rule on a radiance field.

``Settings()`` holds the paper's numbers, and where it gives none those of LucidDreamer (arXiv 2311.11284), its code base;
``.toy()`` holds those for the toybox on a laptop. The code does not know which it has. :mod:`dreamlab.pipelines.baselines`
says in the same settings what other methods do.
"""
from dataclasses import dataclass, field, replace
from importlib.util import find_spec

from torch import Tensor

from dreamlab import rules
from dreamlab.cameras import LucidOrbit, Orbit, ring
from dreamlab.losses import disparity, total_variation
from dreamlab.noise import seeded
from dreamlab.pipelines.picture import build
from dreamlab.priors.base import Prior
from dreamlab.priors.diffusion import BUNDLED, HUB, DiffusionPrior, usual_device
from dreamlab.priors.points import load_points
from dreamlab.prompts import ViewPrompts
from dreamlab.rules import RULES
from dreamlab.scenes.gaussians import Gaussians
from dreamlab.scenes.growth import Growth
from dreamlab.scenes.nerf import HashGrid, NeRF
from dreamlab.schedules import WEIGHTS, Annealed, Cosine, constant
from dreamlab.stage import Stage
from dreamlab.toybox.dataset import backgrounds
from dreamlab.types import Render

Rates = dict[str, float | tuple[float, float]]

NEGATIVE = ("unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, dark, low-resolution, "
            "oversaturation")  # LucidDreamer
RATES: dict[str, Rates] = {
    "gaussians": {"means": (5.6e-4, 5.6e-6), "scales": (5e-3, 1e-3), "quats": (1e-3, 2e-4), "opacities": 5e-2,
                  "colors": (5e-3, 3e-3)},  # LucidDreamer; 1.6e-4 times its spatial scale 3.5
    "nerf": {"grid": 1e-2, "density": 1e-3, "color": 1e-3}}  # threestudio's ProlificDreamer
TOY_RATES: dict[str, Rates] = {
    "gaussians": {"means": 4e-3, "scales": 1e-2, "quats": 1e-2, "opacities": 3e-2, "colors": 4e-2},
    "nerf": {"grid": 2e-2, "density": 3e-3, "color": 3e-3}}
OPERATORS = {"ulite": lambda prior: rules.ULite.for_shape(prior.shape),
             "linear": lambda prior: rules.LinearOperator(prior.shape),
             "noisy": lambda prior: rules.NoisyOperator(rules.ULite.for_shape(prior.shape), prior.shape)}


@dataclass(frozen=True)
class Settings:
    """One run. LD is LucidDreamer; where no source is named, the value is ours.

    Left out of LD's recipe: flipped batches, noise on the scales, and guiding the disparity instead of the colour at times. Its
    backgrounds are white or of any colour; here they are the toybox's, light and dark greys with a tint.
    """

    prompt: str
    seed: int = 0
    prior: str = "sd-2.1-base"  # paper, section 4.2
    # the scene
    scene: str = "gaussians"  # or "nerf" (paper, Fig. 9)
    ball: bool = False  # start from a grey ball instead of the points prior
    points_prior: str = "shap-e"  # paper, section 3.4
    points: int = 50_000  # paper, section 4.2: Shap-E's points, upsampled
    opacity: float = 0.1  # LD: of a new Gaussian
    spread: float = 1.0  # LD: width of a new Gaussian in rms distances to its three neighbours
    growth: Growth | None = field(default_factory=Growth)  # LD; a radiance field does not grow
    levels: int = 16  # of a radiance field's hash grid, from 16 cells a side (arXiv 2201.05989) ...
    finest: int = 4096  # ... to this many
    hidden: int = 64  # width of its two networks
    samples: int = 128  # a ray
    bound: float = 1.0  # radius of the ball it fills
    # the rule
    rule: str = "VDM"  # paper; a name in dreamlab.rules.RULES
    guidance: float = 7.5  # paper's 7.5, in diffusers' convention (see rules/vdm.py)
    weight: str | None = "noise_to_signal"  # w(t), a name in schedules.py; LD. None, or with a grid (APFO): the rule's own
    operator: str = "ulite"  # paper, section 4.2; "linear" or "noisy" in its ablation (Fig. 7)
    operator_rate: float = 0.01  # paper, section 4.2
    dca: bool = True  # paper, Eq. 18
    cutoff: int = 300  # paper, Eq. 18
    critic_rate: float = 1e-4  # of LoRA, for rules that have a critic (ProlificDreamer)
    # prompts
    negative: str = NEGATIVE  # LD: in the place of the null prompt
    view_words: bool = True  # LD: name the view in the prompt ...
    interpolate: bool = True  # LD: ... mixing the embeddings of neighbouring views
    perp_neg: bool = False  # LD has it for animals and heads only
    # the loop
    cameras: Orbit = field(default_factory=LucidOrbit)  # LD
    t_max: tuple[int, int] = (980, 500)  # LD: start and end of the largest t ...
    t_until: float = 0.3  # LD: ... by which share of the steps it has fallen ...
    t_since: float = 0.0  # LD: ... and from which
    t_shared: bool = True  # LD: one t for all views of a step
    steps: int = 5000  # paper, section 4.2
    views: int = 4  # paper, section 4.2: the batch
    resolution: int = 512  # LD; a radiance field needs some 50 GB for 4 such views: give it 64, as its baselines have
    rates: Rates | None = None  # Adam's, by parameter group; None: RATES (LD; threestudio for a field)
    betas: tuple[float, float] = (0.9, 0.999)  # LD
    decay: Cosine | None = None  # of all rates; LD: each has its own
    scale_weight: float = 2.5  # times the mean scale of the Gaussians. LD's 1.0 ...
    tv_weight: float = 2.5  # ... and total variation of colour and disparity: LD sums 0.1 of each of 4 views, we average them

    def __post_init__(self):
        for name, known in (("rule", RULES), ("operator", OPERATORS), ("scene", RATES), ("weight", WEIGHTS)):
            if getattr(self, name) not in known and (name, self.weight) != ("weight", None):
                raise ValueError(f"there is no {name} {getattr(self, name)!r}; there is: {', '.join(known)}")
        if self.rates is not None and self.rates.keys() != (groups := RATES[self.scene].keys()):
            raise ValueError(f"rates name {', '.join(self.rates)}; a scene of {self.scene!r} has: {', '.join(groups)}")
        if self.perp_neg and not self.view_words:
            raise ValueError("perp_neg steers between views, so it needs view_words=True")
        if self.perp_neg and self.rule == "LODS":
            raise ValueError("perp_neg moves the guided prediction, and LODS has none: choose another rule")

    def toy(self, **changes) -> "Settings":
        """The same run for the toybox on two CPU cores; ``changes`` are fields to set besides.

        No growth, no regularisers, cameras that the prior has seen, and view words as it has read them.
        """
        ball, scene = changes.get("ball", self.ball), changes.get("scene", self.scene)
        small = dict(prior="toybox", points_prior="toybox", points=3000, opacity=0.3 if ball else 0.5,
                     spread=1.0 if ball else 0.6, growth=None,
                     levels=4, finest=64, hidden=32, samples=32, bound=0.85, guidance=3.0, weight="balanced",
                     critic_rate=1e-2, negative="", interpolate=False, cameras=Orbit(),
                     t_max=(950, 300) if ball or scene == "nerf" else (600, 150), t_since=0.0, t_until=0.8, t_shared=False,
                     steps=200, resolution=64, rates=TOY_RATES.get(scene), betas=(0.9, 0.99), decay=Cosine(), scale_weight=0.0,
                     tv_weight=0.0)
        return replace(self, **(small | changes))


def start(settings: Settings, device: str = "cpu") -> Gaussians | NeRF:
    """Gaussians at the coloured points of the points prior, or in a grey ball; or a radiance field's soft blob."""
    generator = seeded(settings.seed)
    if settings.scene == "nerf":
        growth = (settings.finest / 16) ** (1 / max(settings.levels - 1, 1))  # arXiv 2201.05989, Eq. 3
        grid = HashGrid(settings.levels, growth=growth, generator=generator)
        return NeRF(grid, settings.hidden, settings.bound, settings.samples, generator=generator).to(device)
    if settings.ball:
        return Gaussians.ball(settings.points, opacity=settings.opacity, spread=settings.spread,
                              generator=generator).to(device)
    points, colours = load_points(settings.points_prior, device)(settings.prompt, settings.points, generator)
    return Gaussians.from_points(points.to(device), colours.to(device), settings.opacity, settings.spread)


def regularise(settings: Settings):
    """LucidDreamer's: scale_weight * mean scale + tv_weight * (TV(rgb) + TV(disparity)); None where both weights are 0."""
    def loss(scene, render: Render) -> Tensor:
        total = settings.tv_weight * (total_variation(render.rgb) + total_variation(disparity(render.depth, render.alpha)))
        return total + settings.scale_weight * scene.scales.mean() if isinstance(scene, Gaussians) else total

    return loss if settings.scale_weight or settings.tv_weight else None


def check_machine(settings: Settings) -> None:
    """ValueError, before anything is fetched, for a run that this machine would not finish."""
    kernels = {"gaussians": "gsplat", "nerf": "nerfacc"}[settings.scene]
    if usual_device(settings.prior) == "cuda":
        if not find_spec(kernels):
            raise ValueError(f'on a GPU this run draws with {kernels}, which is not installed: pip install -e ".[cuda]"')
    elif settings.prior in HUB or settings.prior not in BUNDLED and settings.resolution >= 256:
        raise ValueError(f"{settings.steps} steps of {settings.views} views with {settings.resolution} pixels under the prior "
                         f"{settings.prior} need a CUDA GPU, and there is none here; the prior toybox runs on any machine")


def stage(settings: Settings, prior: Prior | None = None) -> Stage:
    """The one stage of the pipeline, ready to :func:`dreamlab.stage.run`: with the bundled prior on the CPU, else on a GPU.

    ``prior`` saves loading it again, and the scene goes where it is. The prompts are embedded here, so that a text too long is
    found out before any work. ValueError where the run wants a GPU, or its kernels, and there are none.
    """
    if not prior:
        check_machine(settings)
        prior = DiffusionPrior.load(settings.prior, usual_device(settings.prior))
    prompts = ViewPrompts(prior, settings.prompt, settings.negative, views=settings.view_words,
                          interpolate=settings.interpolate, perp_neg=settings.perp_neg)
    prompts(ring(4))
    own = {} if settings.rule != "VDM" else dict(
        operator=OPERATORS[settings.operator](prior), lr=settings.operator_rate, dca=settings.dca, cutoff=settings.cutoff)
    gridded = "grid" in getattr(rules, settings.rule).__dataclass_fields__  # then its steps are its weight
    rule = build(replace(settings, weight=None) if gridded else settings, prior, **own)
    scene, rates = start(settings, str(prior.null.device)), settings.rates or RATES[settings.scene]
    return Stage(
        scene, prior, rule, prompts, getattr(rule, "grid", None) or
        Annealed(*settings.t_max, since=settings.t_since, until=settings.t_until, shared=settings.t_shared),
        rates={name: rates[name.split(".")[0]] for name in scene.parameters()}, decay=settings.decay or constant,
        regularise=regularise(settings), background=backgrounds, cameras=settings.cameras,
        growth=replace(settings.growth) if settings.growth and settings.scene == "gaussians" else None,
        steps=settings.steps, views=settings.views, resolution=settings.resolution,
        betas=settings.betas, seed=settings.seed)
