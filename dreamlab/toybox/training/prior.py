"""Training of the bundled prior: its autoencoder, then text encoder and UNet over the latents."""
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from dreamlab.cameras import Orbit
from dreamlab.files import load_weights, write_text, writing
from dreamlab.noise import seeded
from dreamlab.priors.base import Card
from dreamlab.priors.diffusion import load_model
from dreamlab.toybox.captions import TOKENS, save_tokenizer
from dreamlab.toybox.dataset import Views
from dreamlab.toybox.training.fit import amp, device, fit

# The bundled prior's: guidance by benchmarks/prior_quality.py, the critic's rate by notebook 05.
CARD = Card("toybox", pixels=64, guidance=4.5, critic_rate=0.01, views=Orbit())


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
    plain(out)
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
    vae = load_model(AutoencoderTiny, out, "vae", "diffusion_pytorch_model", "train it again, `dreamlab toybox train vae`")
    vae = vae.to(device()).requires_grad_(False)
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


def plain(folder: Path) -> None:
    """What diffusers and transformers have saved into a pipeline's folder, so that all versions load it alike, without options.

    The names of the text encoder's tensors begin with ``text_model.``, which transformers before 5.6 wants and later ones
    take. It is loaded in full precision, like the other parts, though the file is in half: transformers goes by the config.
    ``AutoencoderTiny`` saves ``block_out_channels`` and then warns of it.
    """
    for part, changes in {"vae": {"block_out_channels": None}, "text_encoder": {"dtype": "float32"},
                          "image_encoder": {"dtype": "float32"}}.items():
        if (file := folder / part / "config.json").exists():
            config = {k: v for k, v in (json.loads(file.read_text()) | changes).items() if k not in changes or v is not None}
            write_text(file, json.dumps(config, indent=2) + "\n")
    if (file := folder / "text_encoder/model.safetensors").exists():
        tensors = load_weights(file, "save it again")
        with writing(file) as part:
            save_file({f"text_model.{k.removeprefix('text_model.')}": v for k, v in tensors.items()}, part, {"format": "pt"})


def save_pipeline(out: Path, unet, text, tokenizer, vae, scheduler) -> Path:
    """A ``StableDiffusionPipeline`` in half precision, :func:`plain`, with its card; returns its folder."""
    from diffusers import StableDiffusionPipeline

    vae.register_to_config(_name_or_path="")
    pipe = StableDiffusionPipeline(vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=scheduler,
                                   safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipe.to(device="cpu", dtype=torch.float16).save_pretrained(out / "pipeline")
    plain(out / "pipeline")
    CARD.write(out / "pipeline")
    return out / "pipeline"
