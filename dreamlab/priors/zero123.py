"""One picture and where another camera stands, to what that camera sees: Zero123 (arXiv 2303.11328).

A UNet of Stable Diffusion reads, beside the noisy latents, those of the picture as more channels, and in the place of text one
token: the picture's CLIP embedding with the relative pose, through a projection (:class:`CameraProjection`). The bundled one
reads the token in its time embedding too, and lets several views see each other, as MVDream's do.
"""
import copy
import json
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dreamlab.cameras import Cameras
from dreamlab.checks import Name, checked, finite
from dreamlab.files import load_weights
from dreamlab.priors.diffusion import BUNDLED, MODELS, PROJECTION, DiffusionPrior, card_of, check_code, fetch, load_model, quiet
from dreamlab.prompts import Cond, Condition, expand
from dreamlab.types import Images

POSE = 4  # numbers
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's pictures


def relative_pose(cameras: Cameras, seen: Cameras) -> Float[Tensor, "b 4"]:
    """Zero123's four numbers of cameras beside the picture's, ``seen``: how much larger the angle from the vertical is, in
    radians (going up is negative); sine and cosine of how far round they stand, anticlockwise from above; how much farther."""
    up, turn = ((getattr(cameras, name) - getattr(seen, name)).deg2rad() for name in ("elevation_deg", "azimuth_deg"))
    return torch.stack([-up, turn.sin(), turn.cos(), cameras.radius - seen.radius], -1)


def clip_pixels(images: Images, size: int) -> Float[Tensor, "b 3 s s"]:
    """Pictures in [0, 1] as a CLIP vision encoder of ``size`` pixels reads them."""
    x = images.movedim(-1, 1)
    if x.shape[-1] != size:
        x = F.interpolate(x, (size, size), mode="bicubic", align_corners=True)
    mean, std = (torch.tensor(v).to(x).view(3, 1, 1) for v in (MEAN, STD))
    return (x - mean) / std


class CameraProjection(nn.Module):
    """(image embedding, relative pose) -> one token. The published one is linear; with ``hidden`` there is a layer between."""

    def __init__(self, embedding: int = 768, token: int = 768, hidden: int | None = None):
        super().__init__()
        self.config = {"embedding": embedding, "token": token, "hidden": hidden}
        self.before = nn.Sequential(nn.Linear(embedding + POSE, hidden), nn.SiLU()) if hidden else nn.Identity()
        self.proj = nn.Linear(hidden or embedding + POSE, token)

    def forward(self, embeds: Float[Tensor, "b e"], pose: Float[Tensor, "b 4"]) -> Float[Tensor, "b 1 c"]:
        return self.proj(self.before(torch.cat([embeds, pose.to(embeds)], -1)))[:, None]

    @classmethod
    def load(cls, folder: Path, embedding: int, token: int, mend: str) -> "CameraProjection":
        """From a folder with safetensors, and a config where there is a hidden layer. FileNotFoundError for what is missing,
        ``files.Refused`` for other weights."""
        try:
            hidden = json.loads((folder / "config.json").read_text()).get("hidden")
        except (OSError, ValueError, AttributeError) as error:
            raise FileNotFoundError(f"no config of a camera projection in {folder} ({error}): {mend}") from error
        module = cls(embedding, token, hidden)
        module.load_state_dict(load_weights(folder / "diffusion_pytorch_model.safetensors", mend, like=module.state_dict()))
        return module


class Zero123(DiffusionPrior):
    """eps(x_t, t, y) of views of one picture's object; :meth:`of` gives it the picture. A condition is whether the picture is
    shown: ``embed`` makes 1 of any text, and 0 of a negative one, which makes zeros of token and latents (guidance)."""

    def __init__(self, pipe, projection: CameraProjection, resolution: int | None = None, card=None):
        super().__init__(pipe, resolution, card)
        self.reads["seen"] = self.shape[-1]
        self.encoder, self.projection = pipe.text_encoder, projection.eval().requires_grad_(False)
        self.embeds: Tensor | None = None

    @classmethod
    @checked
    def load(cls, name: Name | Path = "toybox-zero123", device: str | torch.device = "cpu",
             dtype: torch.dtype | None = None) -> "Zero123":
        """``name``: "toybox-zero123" (bundled), or a folder with unet, vae, image_encoder, clip_camera_projection and
        scheduler, as the hub's conversions of Zero123-XL to diffusers have them. One that lacks autoencoder and scheduler
        names the prior that has them in its card. Safetensors only, no code; errors as of :meth:`DiffusionPrior.load`."""
        from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
        from transformers import CLIPVisionModelWithProjection

        source, card = Path(BUNDLED.get(str(name), name)), card_of(name)
        mend = "install dreamlab again" if str(name) in BUNDLED else "put back what is missing, as the hub has it"
        folder = source if source.is_dir() or str(name) in BUNDLED else fetch(str(name))
        needed = ["unet", "image_encoder", PROJECTION] + ["vae", "scheduler"] * (card.base is None)
        if absent := [part for part in needed if not (folder / part).is_dir()]:
            raise FileNotFoundError(f"no {', '.join(absent)} in {folder}: {mend}")
        check_code(folder)
        dtype = dtype or (torch.float16 if torch.device(device).type == "cuda" else torch.float32)
        with quiet():
            unet = load_model(UNet2DConditionModel, folder, "unet", MODELS["unet"], mend)
            encoder = load_model(CLIPVisionModelWithProjection, folder, "image_encoder", "model", mend)
            if card.base:
                base = DiffusionPrior.load(card.base).pipe
                vae, scheduler = base.vae, base.scheduler
            else:
                vae = load_model(AutoencoderKL, folder, "vae", MODELS["vae"], mend)
                scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
            projection = CameraProjection.load(folder / PROJECTION, encoder.config.projection_dim,
                                               unet.config.cross_attention_dim, mend)
            for part in (unet, vae, encoder, projection):
                part.to(device, dtype)
        pipe = SimpleNamespace(unet=unet, vae=vae, text_encoder=encoder, scheduler=scheduler,
                               vae_scale_factor=2 ** (len(getattr(vae.config, "block_out_channels", (1,) * 3)) - 1))
        return cls(pipe, projection, card=card)

    @torch.no_grad()
    def of(self, picture: Float[Tensor, "h w 3"], seen: Cameras) -> "Zero123":
        """The prior of this picture, in [0, 1], which the one camera ``seen`` took. The latents are unscaled, as published."""
        if len(seen) != 1 or picture.ndim != 3 or picture.shape[0] != picture.shape[1] or picture.shape[2] != 3:
            raise ValueError(f"a picture is square, (s, s, 3), and has one camera, got {tuple(picture.shape)} and {len(seen)}: "
                             "crop it (dreamlab.pictures.load_picture does), or give one camera")
        one, image = copy.copy(self), finite(picture, "the picture has", "give another")[None].to(self.device)
        one.__dict__.pop("null", None)
        one.camera, one.latents = seen, self.encode(image) / self.vae.config.scaling_factor
        dtype, size = self.encoder.dtype, self.encoder.config.image_size
        one.embeds = self.encoder(clip_pixels(image, size).to(dtype)).image_embeds
        return one

    def embed(self, texts: list[str], negative: bool = False) -> Cond:
        return torch.full((len(texts), 1, 1), float(not negative), device=self.device, dtype=self.unet.dtype)

    def posed(self, cond: Cond, cameras: Cameras) -> Cond:
        """The token and the latents for each camera. ValueError before :meth:`of`."""
        if self.embeds is None:
            raise ValueError("this prior turns a picture, and has none yet: give it one, prior.of(picture, camera)")
        shown, n = expand(cond, len(cameras)), len(cameras)
        pose = relative_pose(cameras, self.camera).to(self.device)
        token = self.projection(self.embeds.expand(n, -1), pose) * shown
        camera = {"camera": token[:, 0]} if "camera" in self.reads else {}
        return Condition({"text": token, "seen": self.latents.to(token) * shown[..., None]} | camera)
