"""A prior over any Stable-Diffusion-shaped diffusers folder: the bundled toybox prior, a local folder, or the hub."""
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.noise import Schedule
from dreamlab.priors.base import Prior
from dreamlab.types import Images, Sample, Steps

BUNDLED = {"toybox": Path(__file__).parent.parent / "toybox/weights/prior"}

# name -> (hub id, pinned revision or None, size in fp16). Read-only mirrors of the original weights.
HUB = {
    "sd-2.1-base": ("stabilityai/stable-diffusion-2-1-base", None, "2.6 GB"),
    "sd-1.5": ("stable-diffusion-v1-5/stable-diffusion-v1-5", None, "2.7 GB"),
}


class DiffusionPrior(Prior):
    """eps(x_t, t, y) of a text-conditioned latent diffusion model; ``y`` is the text encoder's last hidden state (B, L, D).

    Reads eps- and v-prediction UNets. Latents are scaled as the pipeline scales them. On CUDA the weights are fp16 unless
    ``dtype`` says otherwise, on CPU float32; inputs and outputs keep the dtype of ``x_t``.
    """

    def __init__(self, pipe, resolution: int | None = None):
        self.pipe, self.unet, self.vae = pipe, pipe.unet.eval().requires_grad_(False), pipe.vae.eval().requires_grad_(False)
        pipe.text_encoder.eval().requires_grad_(False)
        self.schedule = Schedule(pipe.scheduler.alphas_cumprod.float().to(self.unet.device))
        self.prediction = pipe.scheduler.config.prediction_type
        if self.prediction not in ("epsilon", "v_prediction"):
            raise ValueError(f"prediction_type must be 'epsilon' or 'v_prediction', got {self.prediction!r}")
        size = self.unet.config.sample_size
        self.shape = (self.unet.config.in_channels, size, size)
        self.resolution = resolution or size * pipe.vae_scale_factor

    @classmethod
    def load(cls, name: str | Path = "toybox", device: str | torch.device = "cpu", dtype: torch.dtype | None = None):
        """``name``: "toybox" (bundled), "sd-2.1-base", "sd-1.5", a hub id, or a local pipeline folder. Safetensors only.

        Raises ``FileNotFoundError`` that says what to fetch and how to point at a local copy.
        """
        from diffusers import StableDiffusionPipeline

        source = BUNDLED.get(str(name), Path(name))
        repo, revision, size = HUB.get(str(name), (str(name), None, "several GB"))
        local = source.is_dir()
        dtype = dtype or (torch.float16 if torch.device(device).type == "cuda" else torch.float32)
        try:
            pipe = StableDiffusionPipeline.from_pretrained(
                source if local else repo, revision=None if local else revision, torch_dtype=dtype, use_safetensors=True,
                local_files_only=local, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
        except (OSError, ValueError) as error:
            known = ", ".join(f"{k} = {v[0]} ({v[2]})" for k, v in HUB.items())
            raise FileNotFoundError(
                f"no weights for {str(name)!r}: it is neither bundled ({', '.join(BUNDLED)}), nor a folder here, nor a "
                f"repository that can be reached. Known ones: {known}. Without a network, fetch {repo} ({size}, safetensors) "
                f"elsewhere with `hf download {repo}` and pass the folder's path. The loader said: {error}") from error
        pipe.set_progress_bar_config(disable=True)
        return cls(pipe.to(device))

    @property
    def device(self) -> torch.device:
        return self.unet.device

    def _eps(self, x_t: Sample, t: Steps, cond: Tensor) -> Sample:
        dtype = self.unet.dtype
        out = self.unet(x_t.to(dtype), t, encoder_hidden_states=cond.to(dtype)).sample.to(x_t.dtype)
        return self.schedule.eps_from_v(x_t, out, t) if self.prediction == "v_prediction" else out

    @torch.no_grad()
    def embed(self, texts: list[str]) -> Tensor:
        """(B, L, D) last hidden states. A text longer than the encoder reads is an error, not a silent cut."""
        tokenizer = self.pipe.tokenizer
        longest = tokenizer.model_max_length
        for text in texts:
            if (n := len(tokenizer(text).input_ids)) > longest:
                raise ValueError(f"the prompt has {n} tokens and the text encoder reads {longest}: shorten {text[:60]!r}...")
        ids = tokenizer(texts, padding="max_length", max_length=longest, return_tensors="pt").input_ids
        return self.pipe.text_encoder(ids.to(self.device))[0]

    def encode(self, images: Images) -> Sample:
        """Rendered (B, H, W, 3) in [0, 1] -> scaled latents, differentiable. Resized to the prior's resolution if need be."""
        x = images.movedim(-1, 1) * 2 - 1
        if x.shape[-1] != self.resolution:
            x = F.interpolate(x, (self.resolution, self.resolution), mode="bilinear", antialias=x.shape[-1] > self.resolution)
        out = self.vae.encode(x.to(self.vae.dtype))
        latent = out.latents if hasattr(out, "latents") else out.latent_dist.mean
        return (latent * self.vae.config.scaling_factor).to(images.dtype)

    @torch.no_grad()
    def decode(self, x: Sample) -> Images:
        image = self.vae.decode(x.to(self.vae.dtype) / self.vae.config.scaling_factor).sample
        return (image.to(x.dtype) / 2 + 0.5).clamp(0, 1).movedim(1, -1)
