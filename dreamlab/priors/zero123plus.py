"""One picture to six views around it: Zero123++ (arXiv 2310.15110), from a folder in its published layout.

A stock UNet of Stable Diffusion 2 denoises one canvas of 3 rows by 2 columns, a view in each. It is told of the picture twice:
by reference attention (:class:`Reference`), and by the picture's CLIP embedding, which the report adds to the context of the
empty text after FlexDiffuse (:meth:`Zero123Plus.condition`). What the report leaves out is as in the published pipeline.
The published weights are for non-commercial use (CC-BY-NC 4.0).
"""
import json
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dreamlab.cameras import Azimuth, Cameras, Elevation, orbit
from dreamlab.checks import Count, Positive, Range, check, checked, finite, fits, shown
from dreamlab.files import Refused
from dreamlab.noise import Schedule, ddim_follow, randn
from dreamlab.priors.base import MEND as WEIGHTS
from dreamlab.priors.base import Card, Guidance, guide
from dreamlab.priors.diffusion import MODELS, check_code, load_model, quiet, read_index
from dreamlab.types import Sample, Steps

V11, V12 = (30.0, -20.0), (20.0, -10.0)  # elevations of versions 1.1 and 1.2, in turns
ROWS, COLUMNS, PIXELS = 3, 2, 320  # of the canvas, and the side of a view
PARTS = ("unet", "vae", "text_encoder", "vision_encoder", "tokenizer", "scheduler", "feature_extractor_clip",
         "feature_extractor_vae")
Views, Canvas = Float[Tensor, "6 s s 3"], Float[Tensor, "1 C h w"]
MEND = "put it back as Zero123++ is published, weights as safetensors, or pass another folder's path"


@checked
def layout(elevations: tuple[Elevation, Elevation] = V12, azimuth_deg: Azimuth = 0.0, radius: Positive = 4.0) -> Cameras:
    """The cameras of the six views, row by row: 30, 90, ..., 330 degrees of azimuth past ``azimuth_deg``, the picture's.

    ``elevations`` are absolute and take turns: :data:`V12`, or :data:`V11` for version 1.1. The field of view is 30 degrees in
    version 1.2 and not stated for 1.1. A picture fixes ``radius`` only beside the object's size; 4 is InstantMesh's (arXiv
    2404.07191). ValueError for an angle or radius out of range.
    """
    return orbit([azimuth_deg + 30.0 + 60 * k for k in range(ROWS * COLUMNS)], [*elevations] * ROWS, radius, 30.0)


class Reference:
    """Self-attention in two passes of the UNet: in the second, keys and values are of [own tokens, the first's tokens].

    It is reached as ``unet(..., cross_attention_kwargs={"stored": stored})`` with a dictionary, in which the first pass leaves
    the input of every self-attention, and from which the second takes it. Cross-attention stays as it is.
    """

    def __init__(self):
        from diffusers.models.attention_processor import AttnProcessor2_0

        self.inner = AttnProcessor2_0()

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, stored=None):
        if encoder_hidden_states is None and stored is not None:
            if attn in stored:
                encoder_hidden_states = torch.cat([hidden_states, stored.pop(attn)], 1)
            else:
                stored[attn] = hidden_states
        return self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, temb)


class Pixels:
    """A picture as an encoder reads it, by the ``preprocessor_config.json`` in a folder: resized by its short side, the square
    in its middle, (x - mean) / std. FileNotFoundError where that file is missing or says something else."""

    def __init__(self, folder: Path):
        try:
            said = json.loads((file := folder / "preprocessor_config.json").read_text(encoding="utf-8"))
            self.side, self.mode = said["size"]["shortest_edge"], {2: "bilinear", 3: "bicubic"}[said["resample"]]
            self.mean, self.std = (torch.tensor(said[name]).view(-1, 1, 1) for name in ("image_mean", "image_std"))
            if said["crop_size"] != {"height": self.side, "width": self.side}:
                raise ValueError(f"crop_size {said['crop_size']}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FileNotFoundError(f"{file} does not say how a picture is read ({error!r}): {MEND}") from error

    def __call__(self, image: Float[Tensor, "h w 3"]) -> Float[Tensor, "1 3 s s"]:
        h, w = (self.side * n // min(image.shape[:2]) for n in image.shape[:2])
        x = F.interpolate(image.movedim(-1, 0)[None], (h, w), mode=self.mode, antialias=True).clamp(0, 1)
        top, left = (h - self.side) // 2, (w - self.side) // 2
        x = x[..., top : top + self.side, left : left + self.side]
        return (x - self.mean.to(x)) / self.std.to(x)


class Zero123Plus:
    """``Zero123Plus.load(folder).views(image, generator)`` -> six views (6, 320, 320, 3) in [0, 1], those of :func:`layout`.

    ``schedule`` is the folder's, whose betas are linear, and the UNet predicts the velocity. ``ramp``: how much of the
    picture's embedding is added to each token of the context. ``side``: of a view, in pixels.
    """

    def __init__(self, unet: nn.Module, vae: nn.Module, text_encoder: nn.Module, vision_encoder: nn.Module, tokenizer,
                 schedule: Schedule, ramp: list[float], pixels: tuple[Pixels, Pixels], side: Count = PIXELS):
        self.unet, self.vae, self.text_encoder, self.vision_encoder = unet, vae, text_encoder, vision_encoder
        for model in (unet, vae, text_encoder, vision_encoder):
            model.eval().requires_grad_(False)
        unet.set_attn_processor(Reference())
        self.tokenizer, self.schedule, self.ramp, self.side = tokenizer, schedule, torch.tensor(ramp), side
        self.clip_pixels, self.vae_pixels = pixels
        self.device, self.dtype = unet.device, unet.dtype

    @classmethod
    @checked
    def load(cls, folder: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> "Zero123Plus":
        """From a local folder; on CUDA in fp16 unless ``dtype`` says otherwise. A card's ``pixels`` replace 320.

        Reads safetensors only, each part by the class it has here, whatever ``model_index.json`` names, and runs no code.
        FileNotFoundError for what is missing or damaged; :class:`dreamlab.files.Refused` for code, for other weights, for a
        ramp that is not as long as the text, and for a scheduler of another prediction.
        """
        folder = Path(folder)
        if absent := [name for name in ("model_index.json", *PARTS) if not (folder / name).exists()]:
            raise FileNotFoundError(f"no {', '.join(absent)} in {folder}: {MEND}")
        if code := sorted(folder.glob("*.py")):
            raise Refused(f"{code[0]} is code, and a prior is weights alone: remove it, or use a folder without code")
        for part in PARTS:
            check_code(folder / part)
        if not any((folder / "tokenizer" / name).exists() for name in ("tokenizer.json", "vocab.json")):
            raise FileNotFoundError(f"no tokenizer.json nor vocab.json in {folder / 'tokenizer'}: {MEND}")
        index, side = read_index(folder, MEND), Card.read(folder).pixels or PIXELS
        pixels = Pixels(folder / "feature_extractor_clip"), Pixels(folder / "feature_extractor_vae")
        try:
            with quiet():
                from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
                from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

                tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
                scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
                ramp, n = index.get("ramping_coefficients"), tokenizer.model_max_length
                if not fits(ramp, list[float]) or len(ramp) != n:
                    raise Refused(f"ramping_coefficients in {folder / 'model_index.json'} must be {n} numbers, one a token, "
                                  f"got {len(ramp) if isinstance(ramp, list) else 0} ({shown(ramp)}): {MEND}")
                if (kind := scheduler.config.prediction_type) != "v_prediction":
                    raise Refused(f"prediction_type in {folder / 'scheduler'} must be v_prediction, got {shown(kind)}: {MEND}")
                kinds = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel,
                         "vision_encoder": CLIPVisionModelWithProjection}
                models = {part: load_model(kind, folder, part, MODELS.get(part, "model"), MEND) for part, kind in kinds.items()}
        except (Refused, FileNotFoundError):
            raise
        except Exception as error:  # whatever a loader makes of damaged files
            said = " ".join(str(error).split())
            raise FileNotFoundError(f"the Zero123++ in {folder} is not whole: {MEND}. The loader said: {said}") from error
        dtype = dtype or (torch.float16 if torch.device(device).type == "cuda" else torch.float32)
        schedule = Schedule(scheduler.alphas_cumprod.float().to(device))
        with quiet():
            return cls(*(model.to(device, dtype) for model in models.values()), tokenizer, schedule, ramp, pixels, side)

    def _latents(self, x: Float[Tensor, "b 3 h w"], generator: torch.Generator) -> Sample:
        """A sample of what the autoencoder makes of x, in its own scale."""
        found = self.vae.encode(x.to(self.device, self.dtype)).latent_dist
        return found.mean.float() + found.std.float() * randn(found.mean.shape, generator).to(self.device)

    @torch.no_grad()
    def encode(self, views: Views, generator: torch.Generator) -> Canvas:
        """Six views in [0, 1] -> the latents of their canvas: (l - 0.22) 0.75, with l in Stable Diffusion's scale and of pixels
        in [-1, 1] times 0.5 / 0.8."""
        canvas = views.unflatten(0, (ROWS, COLUMNS)).permute(4, 0, 2, 1, 3).flatten(3).flatten(1, 2)[None]
        return (self._latents((canvas * 2 - 1) * 0.5 / 0.8, generator) * self.vae.config.scaling_factor - 0.22) * 0.75

    @torch.no_grad()
    def decode(self, x: Canvas) -> Views:
        """The way back from :meth:`encode`, clamped to [0, 1]."""
        z = (x / 0.75 + 0.22) / self.vae.config.scaling_factor
        canvas = finite(self.vae.decode(z.to(self.dtype)).sample.float(), "the autoencoder of Zero123++ decodes", WEIGHTS)
        canvas = (canvas[0] * 0.8 / 0.5 / 2 + 0.5).clamp(0, 1)
        return canvas.unflatten(1, (ROWS, -1)).unflatten(3, (COLUMNS, -1)).permute(1, 3, 2, 4, 0).flatten(0, 1)

    @torch.no_grad()
    def condition(self, image: Float[Tensor, "h w 3"], generator: torch.Generator) -> tuple[Float[Tensor, "2 L c"], Sample]:
        """The context, and the latents that attention refers to, (2, C, h, w): of a picture, and of none for guidance.

        Context: text("") + ramp * CLIP(picture), and text("") alone. Latents: the autoencoder's sample of the picture, and of
        zeros, in its own scale, which is 1 / 0.18215 of Stable Diffusion's (the report's "scaled" reference attention).
        """
        seen = self.vae_pixels(image)
        ids = self.tokenizer([""], padding="max_length", max_length=len(self.ramp), return_tensors="pt").input_ids
        text = self.text_encoder(ids.to(self.device)).last_hidden_state
        embeds = self.vision_encoder(self.clip_pixels(image).to(self.device, self.dtype)).image_embeds
        context = torch.cat([text + self.ramp[:, None].to(embeds) * embeds[:, None], text])
        return context, self._latents(torch.cat([seen, torch.zeros_like(seen)]), generator)

    @torch.no_grad()
    def eps(self, x_t: Sample, t: Steps, context: Float[Tensor, "b L c"], reference: Float[Tensor, "b C h w"],
            generator: torch.Generator) -> Sample:
        """The predicted noise of x_t (b, C, h, w); the first pass reads the reference at the same t, with fresh noise."""
        noisy, stored = self.schedule.add_noise(reference, randn(reference.shape, generator).to(reference), t), {}
        for x in (noisy, x_t):
            v = self.unet(x.to(self.dtype), t, context, cross_attention_kwargs={"stored": stored}).sample.to(x_t)
        return finite(self.schedule.eps_from_v(x_t, v, t), "Zero123++ predicts", WEIGHTS)

    @torch.no_grad()
    @checked
    def views(self, image: Tensor, generator: torch.Generator, guidance: Guidance = 4.0, steps: Count = 75) -> Views:
        """Six views of the object in a picture (h, w, 3) in [0, 1], of which the square in the middle is read. Lay what is
        transparent on grey (0.5), as the published pipeline does.

        Sampled by DDIM at the published "trailing" timesteps 999, 986, ..., where the published pipeline adds noise at every
        step (Euler ancestral). ValueError for what is no such picture, and for more steps than the schedule has.
        """
        check("steps", steps, Annotated[int, Range(1, len(self.schedule))])
        whole = image.ndim == 3 and image.shape[2] == 3 and image.numel() > 0 and image.is_floating_point()
        if not (whole and image.min() >= 0 and image.max() <= 1):
            ends = f" from {image.min():g} to {image.max():g}" if whole else ""
            raise ValueError(f"image must be one picture (h, w, 3) of fractions in [0, 1], got {shown(image)}{ends}: take "
                             "three channels, and divide bytes by 255")
        context, reference = self.condition(image.float(), generator)
        side = self.side // 2 ** (len(self.vae.config.block_out_channels) - 1)
        x = randn((1, self.unet.config.in_channels, ROWS * side, COLUMNS * side), generator).to(self.device)

        def guided(x_t: Sample, t: Steps) -> Sample:
            both = self.eps(x_t.repeat(2, 1, 1, 1), t.repeat(2), context, reference, generator)
            return guide(*both.chunk(2), guidance)

        times = torch.linspace(len(self.schedule), 0, steps + 1, dtype=torch.float64, device=self.device).round().long() - 1
        return self.decode(ddim_follow(guided, x, self.schedule, list(times[:, None])))
