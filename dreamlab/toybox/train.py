"""Make the bundled weights again from nothing: ``dreamlab toybox train vae | prior | points | judge``.

Every training draws its batch of step i from a generator seeded by (seed, i), keeps a checkpoint and continues from it,
and runs on a GPU when there is one. On two CPU cores the prior takes hours; on a GPU minutes.
"""
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from dreamlab.noise import seeded
from dreamlab.priors.points import GRID, PointField, cell_centres
from dreamlab.toybox.captions import TOKENS, save_tokenizer
from dreamlab.toybox.dataset import COLOUR_NAMES, KIND_NAMES, TRAIN_COLOURS, Views
from dreamlab.toybox.objects import COLOURS, Toy
from dreamlab.toybox.render import shade


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fit(modules: dict[str, nn.Module], loss: Callable[[torch.Generator], Tensor], steps: int, lr: float, checkpoint: Path,
        ema: float = 0.0, seed: int = 0, weight_decay: float = 1e-2) -> None:
    """AdamW with 100 steps of warm-up and a cosine to zero; resumes from ``checkpoint`` and leaves it when done.

    With ``ema`` > 0 the modules end at the exponential moving average of their weights.
    """
    nets = nn.ModuleDict(modules)
    params = [p for p in nets.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(params, lr=lr, weight_decay=weight_decay)
    average = [p.detach().clone() for p in params] if ema else []
    start = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=device())
        nets.load_state_dict(state["nets"])
        optimiser.load_state_dict(state["optimiser"])
        average, start = state["average"], state["step"]
    bar = tqdm(range(start, steps), initial=start, total=steps, desc=checkpoint.stem, mininterval=10)
    running = None

    def save(step):
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"nets": nets.state_dict(), "optimiser": optimiser.state_dict(), "average": average, "step": step},
                   f"{checkpoint}.part")
        os.replace(f"{checkpoint}.part", checkpoint)

    for step in bar:
        for group in optimiser.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))
        value = loss(seeded(seed, step))
        optimiser.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        optimiser.step()
        decay = min(ema, (step + 1) / (step + 10))
        for a, p in zip(average, params, strict=False):
            a.lerp_(p.detach(), 1 - decay)
        running = value.item() if running is None else 0.98 * running + 0.02 * value.item()
        bar.set_postfix(loss=f"{running:.4f}", refresh=False)
        if (step + 1) % 250 == 0 or step + 1 == steps:
            save(step + 1)
    for a, p in zip(average, params, strict=False):
        p.data.copy_(a)


def amp():
    """bfloat16 autocast: about a third faster on CPUs that have it, and the usual choice on a GPU."""
    return torch.autocast(device().type, torch.bfloat16)


def train_vae(out: Path, views: Views, steps: int = 3600, batch: int = 16, seed: int = 0) -> Path:
    """A tiny autoencoder, 64 x 64 x 3 -> 16 x 16 x 8 (diffusers' ``AutoencoderTiny``). Returns its folder.

    Loss: L1 + 2 MSE of the reconstruction from a latent with noise of 0.05, and 1e-3 |z|^2 to hold the scale. At the end
    ``scaling_factor`` is set so that scaled latents have unit variance.
    """
    from diffusers import AutoencoderTiny

    torch.manual_seed(seed)
    vae = AutoencoderTiny(encoder_block_out_channels=(32, 32, 32), decoder_block_out_channels=(32, 32, 32),
                          num_encoder_blocks=(1, 1, 2), num_decoder_blocks=(2, 1, 1), latent_channels=8)
    vae = vae.to(device(), memory_format=torch.channels_last)

    def loss(generator):
        x = views.batch(batch, generator)[0].to(device(), memory_format=torch.channels_last)
        noise = torch.randn(batch, 8, x.shape[2] // 4, x.shape[3] // 4, generator=generator).to(device())
        with amp():
            z = vae.encode(x).latents.float()
            error = vae.decode(z + 0.05 * noise).sample.float() - x
        return error.abs().mean() + 2 * error.square().mean() + 1e-3 * z.square().mean()

    fit({"vae": vae}, loss, steps, 3e-3, out / "checkpoints/vae.pt", ema=0.995, seed=seed, weight_decay=0.0)
    with torch.no_grad():
        z = vae.encode(views.batch(512, seeded(seed, steps))[0].to(device())).latents
    vae.register_to_config(scaling_factor=round(1 / z.std().item(), 4))
    vae.to(memory_format=torch.contiguous_format).save_pretrained(out / "vae")
    return out / "vae"


def train_prior(out: Path, views: Views, steps: int = 7000, batch: int = 16, seed: int = 2) -> Path:
    """Text encoder and UNet over the VAE's latents; saved as a ``StableDiffusionPipeline`` folder in fp16.

    eps prediction on Stable Diffusion's schedule, min-SNR weighting with gamma 5 (arXiv 2303.09556), 10 % empty captions
    for guidance, moving average of the weights. The caption reaches the UNet twice: by cross-attention on the 8 x 8 level,
    and pooled into the time embedding (``addition_embed_type="text"``). An earlier trial without
    the pooled path, and with other captions, learnt no view words.
    """
    from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = save_tokenizer(out / "tokenizer")
    vae = AutoencoderTiny.from_pretrained(out / "vae").to(device()).requires_grad_(False)
    torch.manual_seed(seed)
    text = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256, projection_dim=128, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=TOKENS, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)).to(device())
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=8, out_channels=8, block_out_channels=(64, 128), layers_per_block=2, norm_num_groups=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=128, attention_head_dim=4, addition_embed_type="text", addition_embed_type_num_heads=4).to(device())
    scheduler = DDIMScheduler(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                              clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    abar = scheduler.alphas_cumprod.to(device())

    def loss(generator):
        x, captions, _, _ = views.batch(batch, generator, null=0.1)
        ids = tokenizer(captions, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt").input_ids
        t = torch.randint(1000, (batch,), generator=generator).to(device())
        eps = torch.randn(batch, 8, 16, 16, generator=generator).to(device())
        with amp():
            with torch.no_grad():
                z = vae.encode(x.to(device())).latents.float() * vae.config.scaling_factor
            a = abar[t].view(-1, 1, 1, 1)
            noisy = a.sqrt() * z + (1 - a).sqrt() * eps
            predicted = unet(noisy, t, text(ids.to(device()))[0]).sample.float()
        snr = abar[t] / (1 - abar[t])
        return ((predicted - eps).square().mean((1, 2, 3)) * snr.clamp_max(5) / snr).mean()

    fit({"unet": unet, "text": text}, loss, steps, 1.2e-3, out / "checkpoints/prior.pt", ema=0.9985, seed=seed)
    return save_pipeline(out, unet, text, tokenizer, vae, scheduler)


def save_pipeline(out: Path, unet, text, tokenizer, vae, scheduler) -> Path:
    from diffusers import StableDiffusionPipeline

    vae.register_to_config(_name_or_path="")
    pipe = StableDiffusionPipeline(vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=scheduler,
                                   safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipe.to(device="cpu", dtype=torch.float16).save_pretrained(out / "pipeline")
    return out / "pipeline"


def train_points(out: Path, views: Views | None = None, steps: int = 3000, batch: int = 8, seed: int = 3) -> Path:
    """The coarse points prior: for every cell of a 16^3 grid, the share that is shell (up to 0.1 deep) and its mean colour.

    Held-out pairs are left out here too. Loss: binary cross-entropy on the share, and on the colour weighted by the share.
    """
    words = [*KIND_NAMES, *COLOUR_NAMES]
    centres = cell_centres()
    sub = cell_centres(4) / GRID  # 4^3 points spread over one cell
    shell, fixed, main_weight = [], [], []
    for kind in tqdm(KIND_NAMES, desc="filling grids"):
        toy = Toy(kind)
        p = (centres[:, None] + sub).reshape(-1, 3)
        d = torch.cat([toy.sdf(c) for c in p.split(1 << 16)])
        inside = ((d < 0) & (d > -0.1)).float()
        rgb, main = toy.paint(p)
        weight = torch.exp(-d.abs() / 0.03)[:, None] * (d.abs() < 0.1)[:, None] + 1e-9
        colour = torch.cat([rgb, main[:, None]], 1) * (shade(toy.normal(p), torch.zeros_like(p)) + 0.15)
        pool = (colour * weight).view(len(centres), -1, 4).sum(1) / weight.view(len(centres), -1, 1).sum(1)
        shell.append(inside.view(len(centres), -1).mean(1))
        fixed.append(pool[:, :3])
        main_weight.append(pool[:, 3:])
    shell, fixed, main_weight = (torch.stack(x).to(device()) for x in (shell, fixed, main_weight))
    palette = torch.tensor(list(COLOURS.values()), device=device())
    torch.manual_seed(seed)
    field = PointField(len(words)).to(device())

    def loss(generator):
        kind = torch.randint(len(KIND_NAMES), (batch,), generator=generator)
        colour = TRAIN_COLOURS[kind, torch.randint(TRAIN_COLOURS.shape[1], (batch,), generator=generator)]
        cells = torch.randint(len(centres), (batch, 512), generator=generator)
        row = torch.arange(batch)[:, None]
        share = shell[kind][row, cells]
        rgb = (fixed[kind] + main_weight[kind] * palette[colour][:, None])[row, cells].clamp(0, 1)
        bag = field.embedding(torch.stack([kind, colour + len(KIND_NAMES)], 1).to(device())).sum(1)
        out = field(centres.to(device())[cells], bag)
        bce = nn.functional.binary_cross_entropy_with_logits
        return bce(out[..., 0], share) + 2 * (bce(out[..., 1:], rgb, reduction="none").mean(-1) * share).mean()

    fit({"field": field}, loss, steps, 3e-3, out / "checkpoints/points.pt", ema=0.99, seed=seed)
    folder = out / "points"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "words.json").write_text(json.dumps(words) + "\n")
    save_file({k: v.half().contiguous().cpu() for k, v in field.state_dict().items()}, folder / "model.safetensors")
    return folder


def main(name: str, out: str | Path = "runs/toybox", per_kind: int = 480, **settings) -> Path:
    """Train the part ``name``; ``out`` keeps views, checkpoints and results."""
    from dreamlab.toybox.judge import train_judge

    parts = {"vae": train_vae, "prior": train_prior, "points": train_points, "judge": train_judge}
    if name not in parts:
        raise ValueError(f"no part {name!r} to train; choose one of: {', '.join(parts)}")
    if (steps := settings.get("steps", 1)) < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    out, start = Path(out), time.time()
    views = Views.make(per_kind, cache=out / f"views_{per_kind}.safetensors")
    if name == "prior" and not (out / "vae").exists():
        train_vae(out, views)
    folder = parts[name](out, views, **settings)
    print(f"{name}: wrote {folder} after {(time.time() - start) / 60:.0f} min")
    return folder
