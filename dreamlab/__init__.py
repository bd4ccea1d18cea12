"""dreamlab: text-to-3D by score distillation. A scene renders, a prior predicts noise, a rule makes the gradient.

The names below are loaded when they are first used, so that ``import dreamlab`` costs nothing.
"""
from importlib import import_module

__version__ = "0.1.0"

_HOME = {
    "Cameras": "cameras", "Orbit": "cameras", "orbit": "cameras", "ring": "cameras",
    "Schedule": "noise",
    "Prompt": "prompts", "ViewPrompts": "prompts",
    "GaussianMixturePrior": "priors.mixture", "ImageMixturePrior": "priors.mixture",
    "DiffusionPrior": "priors.diffusion", "PointsPrior": "priors.points",
    "LoRACritic": "priors.critic", "EmbeddingCritic": "priors.critic", "ExactCritic": "priors.critic",
    "distill": "rules.base", "SDS": "rules.sds", "VSD": "rules.vsd", "VDM": "rules.vdm", "APFO": "rules.apfo",
    "CSD": "rules.csd", "NFSD": "rules.nfsd", "ISM": "rules.ism", "ASD": "rules.asd", "LODS": "rules.lods",
    "LMCSDS": "rules.lmc", "SSD": "rules.ssd", "Consistent3D": "rules.consistent3d", "SDI": "rules.sdi", "PFD": "rules.pfd",
    "Picture": "scenes.picture", "Gaussians": "scenes.gaussians", "NeRF": "scenes.nerf",
    "Stage": "stage", "run": "stage", "Part": "pipeline", "Method": "pipeline", "METHODS": "methods",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'dreamlab' has no attribute {name!r}; it has {', '.join(_HOME)}")
    value = getattr(import_module(f"dreamlab.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
