"""Scenes: what renders. To add one: its file, and its names in the two lists below; the law tests cover every name."""
import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from dreamlab.checks import check, checked, shown
from dreamlab.priors.base import Prior
from dreamlab.scenes.base import Begin, Scene, again
from dreamlab.scenes.convert import surface
from dreamlab.scenes.gaussians import Gaussians, ball, points
from dreamlab.scenes.latent import LatentNeRF, latent_blob
from dreamlab.scenes.nerf import NeRF, blob
from dreamlab.scenes.neus import NeuS, cost_volume, neus_to_tets, random_volume
from dreamlab.scenes.picture import Picture, latents, pixels
from dreamlab.scenes.tets import Tets, nerf_to_tets, shape, sphere
from dreamlab.scenes.textured import Textured, given, texture

SCENES = {scene.__name__: scene for scene in (Gaussians, LatentNeRF, NeRF, NeuS, Picture, Tets, Textured)}
# How a scene may begin, by the name that settings know it by
STARTS = {start.__name__: start for start in (
    points, ball, blob, latent_blob, latents, pixels, surface, again, cost_volume, random_volume, nerf_to_tets,
    neus_to_tets, shape, sphere, texture, given)}

__all__ = ["SCENES", "STARTS", "Begin", "Gaussians", "NeRF", "NeuS", "Picture", "Scene", "Tets", "Textured", "load", "notes"]


@checked
def notes(path: Path | str) -> dict:
    """What :meth:`Scene.save` wrote beside the leaves. OSError where the file cannot be read or is no scene."""
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["dreamlab"])
        return {} | about
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise OSError(f"{path} holds no scene, it is damaged or something else ({error}): remove it and run its part "
                      "again") from error


@checked
def load(path: Path | str, prior: Prior | None = None) -> Scene:
    """The scene of a file, whichever it is. ``prior``: what decodes it where it is a picture of latents.

    OSError for a file that is no scene, ValueError for a scene that is not in ``SCENES`` or does not fit its own config.
    """
    about = notes(path)
    if about.get("scene") not in SCENES:
        raise ValueError(f"{path} holds a {shown(about.get('scene'))}, and there is only: {', '.join(SCENES)}: name another "
                         "file")
    with safe_open(path, "pt") as file:
        leaves = {name: file.get_tensor(name) for name in file.keys()}
    if prior:
        leaves = {name: leaf.to(prior.device) for name, leaf in leaves.items()}
    try:
        check("leaves", leaves, dict[str, Tensor])  # no NaN
        return SCENES[about["scene"]].rebuild(about["config"], leaves, prior)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, StopIteration) as error:
        raise ValueError(f"{path} is no {about['scene']} as it was saved ({error}): name another file, or remove it and "
                         "run its part again") from error
