"""Training of what stands beside the bundled prior: adapters (LoRA, arXiv 2106.09685) of its UNet for other pictures.

``normals`` are pictures of world normals instead of colours, ``refiner`` is for 128 pixels and little noise. Autoencoder, text
encoder and the UNet's own weights are the bundled prior's, and stay as they are: a folder holds the adapter and its card alone.
"""
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from dreamlab.priors.base import Card
from dreamlab.priors.diffusion import DiffusionPrior
from dreamlab.toybox.dataset import Views
from dreamlab.toybox.training.fit import amp, device, fit
from dreamlab.toybox.training.prior import CARD

NORMALS = replace(CARD, base="toybox", pixels=64)
REFINER = replace(CARD, base="toybox", pixels=128, highest=350)


def train_normals(out: Path, views: Views | None = None, steps: int = 700, batch: int = 16, seed: int = 5) -> Path:
    """The prior for pictures of world normals, (n + 1) / 2, under the same captions. Returns its folder."""
    views = Views.make(96, cache=out / "views_normals_96.safetensors", seed=seed, normals=True)
    return train(out, "normals", NORMALS, views, steps, batch, lr=3e-3, rank=16, seed=seed)


def train_refiner(out: Path, views: Views | None = None, steps: int = 1300, batch: int = 8, seed: int = 6) -> Path:
    """The prior for 128 pixels and t up to 350, the role of SDXL's refiner. Returns its folder."""
    views = Views.make(176, cache=out / "views_128_176.safetensors", seed=seed, resolution=128)
    return train(out, "refiner", REFINER, views, steps, batch, lr=1e-3, rank=32, seed=seed)


def inner(unet: nn.Module) -> list[str]:
    """The names of all linear and convolutional layers but the first and the last."""
    return [name for name, layer in unet.named_modules()
            if isinstance(layer, nn.Linear | nn.Conv2d) and name not in ("conv_in", "conv_out")]


def train(out: Path, name: str, card: Card, views: Views, steps: int, batch: int, lr: float, rank: int, seed: int) -> Path:
    """An adapter of the bundled UNet for ``views``, to predict the noise up to the card's highest t. Returns its folder."""
    from peft import LoraConfig

    prior = DiffusionPrior.load("toybox", device())
    prior.resolution = card.pixels
    unet, vae, highest = prior.unet, prior.vae, card.highest or len(prior.schedule) - 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=inner(unet)))
    embedded: dict[str, torch.Tensor] = {}

    def loss(generator):
        x, captions, _, _ = views.batch(batch, generator, null=0.1)
        for caption in set(captions) - embedded.keys():
            embedded[caption] = prior.embed([caption])
        t = torch.randint(highest + 1, (batch,), generator=generator).to(device())
        with amp():
            with torch.no_grad():
                z = vae.encode(x.to(device())).latents.float() * vae.config.scaling_factor
            eps = torch.randn(z.shape, generator=generator).to(z)
            noisy = prior.add_noise(z, eps, t)
            predicted = unet(noisy, t, torch.cat([embedded[c] for c in captions])).sample.float()
        return (predicted - eps).square().mean()

    fit({"unet": unet}, loss, steps, lr, out / f"checkpoints/{name}.pt", ema=0.995, seed=seed, weight_decay=0.0)
    unet.half().save_lora_adapter(out / name, safe_serialization=True)
    card.write(out / name)
    return out / name
