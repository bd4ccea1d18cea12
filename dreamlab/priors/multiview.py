"""Several views of one object at once: the parts that turn a UNet of Stable Diffusion into MVDream's (arXiv 2308.16512).

Two things are added. Each row's camera, ``NUMBERS`` of them, goes through a projection into the time embedding (diffusers'
``class_embed_type="projection"``); and in self-attention the rows of a set see each other (:class:`Joined`). The published
weights have latent-diffusion's names and a class of their own, which is code: :func:`read_mvdream` puts them into diffusers'
class.
"""
import copy
import json
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from dreamlab.cameras import Cameras
from dreamlab.files import check_weights, load_weights, refuse
from dreamlab.prompts import ViewPrompts
from dreamlab.types import Images

NUMBERS = 16  # of a camera
VIEWS = 4  # of MVDream
MVDREAM = ["mv_unet", "MultiViewUNetModel"]  # what its model_index.json takes the UNet from


def camera_numbers(cameras: Cameras, front_deg: Float[Tensor, "b"] | None = None) -> Float[Tensor, "b 16"]:
    """MVDream's 16 numbers of a camera: the camera-to-world matrix, row by row, its columns right, up, backward and the
    position, which is divided by its length. The world's z is up, and +x is the front, as here, or the azimuth ``front_deg``.
    """
    world = cameras.viewmats.transpose(1, 2).clone()  # the rotation's inverse; rows and columns of the position follow
    world[:, :3, 1:3] *= -1  # OpenCV's down and forward
    world[:, :3, 3] = torch.nn.functional.normalize(cameras.positions, dim=-1)
    world[:, 3] = torch.tensor([0.0, 0, 0, 1]).to(world)
    if front_deg is not None:
        (x, y), (cos, sin) = world[:, :2].unbind(1), (f(front_deg.deg2rad())[:, None] for f in (torch.cos, torch.sin))
        world[:, :2] = torch.stack([cos * x + sin * y, cos * y - sin * x], 1)
    return world.flatten(1)


def first_of_each(cameras: Cameras, joined: int) -> Float[Tensor, "b"]:
    """The azimuth, in degrees, of the first camera of each one's set."""
    return cameras.azimuth_deg[::joined].repeat_interleave(joined)[: len(cameras)]


class Joined:
    """Attention in which the tokens of ``views`` consecutive rows are one row's, where a row attends to itself.

    ``views`` reaches it as ``unet(..., cross_attention_kwargs={"views": n})``. Cross-attention stays as it is.
    """

    def __init__(self):
        from diffusers.models.attention_processor import AttnProcessor2_0

        self.inner = AttnProcessor2_0()

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, views: int = 1):
        rows = hidden_states.shape
        if encoder_hidden_states is None and views > 1:
            if rows[0] % views:
                raise ValueError(f"{rows[0]} rows are no sets of {views} views: give whole sets, their views side by side")
            hidden_states = hidden_states.reshape(rows[0] // views, views * rows[1], rows[2])
        return self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, temb).view(rows)


def read_mvdream(folder: Path, mend: str) -> torch.nn.Module:
    """The UNet of MVDream as it is published in ``folder`` (config.json and safetensors), as a ``UNet2DConditionModel``.

    FileNotFoundError for a file that is missing or damaged, :class:`dreamlab.files.Refused` for other weights than MVDream's.
    """
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    try:
        said = json.loads((folder / "config.json").read_text())
        widths = [said["model_channels"] * k for k in said["channel_mult"]]
        attended = [2**i in said["attention_resolutions"] for i in range(len(widths))]
        config = {
            "sample_size": said["image_size"], "in_channels": said["in_channels"], "out_channels": said["out_channels"],
            "block_out_channels": widths, "layers_per_block": said["num_res_blocks"],
            "down_block_types": ["CrossAttnDownBlock2D" if x else "DownBlock2D" for x in attended],
            "up_block_types": ["CrossAttnUpBlock2D" if x else "UpBlock2D" for x in reversed(attended)],
            "attention_head_dim": [width // said["num_head_channels"] for width in widths],
            "cross_attention_dim": said["context_dim"], "use_linear_projection": True, "class_embed_type": "projection",
            "projection_class_embeddings_input_dim": said["camera_dim"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileNotFoundError(f"{folder / 'config.json'} is no config of MVDream's UNet ({error!r}): {mend}") from error
    file = folder / "diffusion_pytorch_model.safetensors"
    found = load_weights(file, mend)
    theirs = {f"model.diffusion_model.{key.replace('camera_embed.', 'label_emb.0.')}": x for key, x in found.items()}
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
    try:
        named = convert_ldm_unet_checkpoint(theirs, config)
    except KeyError as error:
        refuse(file, mend, lacks=[str(error)])
    taken = {id(x) for x in named.values()}
    refuse(file, mend, unexpected=[key for key, x in found.items() if id(x) not in taken])
    check_weights(file, named, unet.state_dict(), mend)
    unet.load_state_dict(named, assign=True)
    return unet.eval()


@torch.no_grad()
def sample_views(prior, asked: str | Float[Tensor, "s s 3"], cameras: Cameras, generator: torch.Generator,
                 guidance: float | None = None, steps: int = 14, seen: Cameras | None = None) -> Images:
    """One object as all ``cameras`` see it at once: pictures (n, h, w, 3) in [0, 1] by DDIM. ``asked``: a text, or, of a
    :class:`~dreamlab.priors.zero123.Zero123`, a picture that the camera ``seen`` took. ``guidance``: of the prior's card where
    none is given. ValueError for a prior that reads no cameras, or the other of text and picture."""
    if isinstance(asked, Tensor) != hasattr(prior, "of"):
        raise ValueError(f"a {type(prior).__name__} makes views of a {'picture' if hasattr(prior, 'of') else 'text'}, got a "
                         f"{type(asked).__name__}: give that, or take another prior")
    one = prior.of(asked, seen) if isinstance(asked, Tensor) else copy.copy(prior)
    if isinstance(asked, str) and "camera" not in getattr(prior, "reads", ()):
        raise ValueError(f"this {type(prior).__name__} is told no cameras and makes every view alone: load a multi-view prior, "
                         "such as toybox-multiview")
    prompt = ViewPrompts(one, asked if isinstance(asked, str) else "", views=False)(cameras)
    one.joined = len(cameras)
    x = one.sample(prompt, len(cameras), generator, guidance or prior.card.guidance or 1.0, steps, offset=1)
    return one.decode(x)
