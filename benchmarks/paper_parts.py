"""DreamFlow's parts at the paper's size, without a GPU: ``python -m benchmarks.paper_parts`` writes results/paper_parts.json.

Scenes are made by the parts' own starts, of a ball where a part needs an earlier one. The networks have the published shapes
and no numbers (torch's meta device), the LoRA critic is our own on them. Counted are parameters; bytes that stay: frozen
networks in half precision, the scene and the LoRA each with gradient and Adam's two moments in float32; and the most that the
tensors made by the networks hold at once (:class:`dreamlab.memory.Live`) in the dearest of a step's three moves: predicting
with both texts, fitting the LoRA, and the autoencoder's encoding with its gradient. Renderers are not in it. What it says is an
estimate of memory; seconds want a GPU.
"""
import argparse
import gc
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

from benchmarks.bench_rules import SD21
from benchmarks.paper_size import VAE
from dreamlab.files import write_json
from dreamlab.memory import Live
from dreamlab.methods.dreamflow import PAPER
from dreamlab.noise import Schedule, stream
from dreamlab.priors.critic import LoRACritic
from dreamlab.priors.diffusion import DiffusionPrior, quiet, unet_eps
from dreamlab.prompts import Condition
from dreamlab.scenes import NeRF, Scene, Tets
from dreamlab.scenes.base import Begin
from dreamlab.scenes.nerf import HashGrid
from dreamlab.scenes.tets import within
from dreamlab.settings import options

# Of stabilityai/stable-diffusion-2-1-base and stable-diffusion-xl-refiner-1.0; everything else is the libraries' default
TEXT = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16,
        "hidden_act": "gelu"}
XL_UNET = {
    "sample_size": 128, "block_out_channels": (384, 768, 1536, 1536), "attention_head_dim": (6, 12, 24, 24),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": 4, "cross_attention_dim": 1280, "use_linear_projection": True,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2560}
XL_TEXT = TEXT | {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
                  "num_attention_heads": 20, "projection_dim": 1280}


def network(name: str, size: int) -> tuple[DiffusionPrior, int]:
    """A prior of the paper's by its name, on the meta device, for latents of that size; and its text encoder's parameters."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    xl = name == "sdxl-refiner"
    with quiet(), torch.device("meta"):
        unet, vae = UNet2DConditionModel(**XL_UNET if xl else SD21).half(), AutoencoderKL(**VAE).half()
        text = CLIPTextModelWithProjection(CLIPTextConfig(**XL_TEXT)) if xl else CLIPTextModel(CLIPTextConfig(**TEXT))
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    prior = DiffusionPrior(SimpleNamespace(unet=unet, vae=vae, scheduler=scheduler, vae_scale_factor=8,
                                           **{"text_encoder_2" if xl else "text_encoder": nn.Identity()}))
    prior.shape, prior.schedule = (4, size, size), Schedule.scaled_linear()  # with numbers, to be compared
    return prior, sum(p.numel() for p in text.parameters())


def scene(name: str, prior: DiffusionPrior, earlier: dict[str, Scene]) -> Scene:
    """The scene of a part at the paper's size: by its start, but for the mesh, which here begins as a ball."""
    part, begin = PAPER[name], Begin("", prior, stream(0, "start"), lambda of: earlier[of])
    if part.scene is not Tets:
        return part.start(begin)
    field: NeRF = earlier["nerf"]
    box = torch.tensor([[-1.0] * 3, [1.0] * 3])
    grid = HashGrid(**field.grid.config, generator=begin.generator)
    return Tets(within(box, options(part.start)["cells"][1] + 1).norm(dim=-1) - 0.5, box, grid, field.hidden, field.radius,
                begin.generator)


def most(move) -> int:
    """Bytes that the tensors made in a move hold at once, at most."""
    gc.collect()
    with Live() as live:
        move()
    return live.most


def moves(prior: DiffusionPrior, critic: LoRACritic | None, views: int, pixels: int) -> dict[str, int]:
    """Bytes of each move of a step."""
    def condition(n: int) -> Condition:
        shapes = {"text": (77, prior.reads["text"]), **{k: (v,) for k, v in prior.reads.items() if k != "text"}}
        return Condition({k: torch.empty(n, *shape, device="meta") for k, shape in shapes.items()})

    def noisy(n: int) -> tuple:
        return torch.empty(n, *prior.shape, device="meta"), torch.zeros(n, dtype=torch.long, device="meta"), condition(n)

    @torch.no_grad()
    def predict():
        prior._eps(*noisy(2 * views))

    def fit():
        x_t, t, cond = noisy(views)
        unet_eps(critic.base, critic.unet.half(), x_t, t, cond).square().mean().backward()  # autocast knows no meta device

    def encode():
        images = torch.empty(views, 3, pixels, pixels, dtype=prior.vae.dtype, device="meta", requires_grad=True)
        prior.vae.encode(images).latent_dist.mean.sum().backward()

    return {"predict": most(predict)} | ({"fit": most(fit)} if critic else {}) | {"encode": most(encode)}


def measure() -> list[dict]:
    """A row for each part."""
    rows, made = [], {}
    for name, part in PAPER.items():
        xl = part.prior == "sdxl-refiner"
        pixels = 1024 if xl else 512  # what the prior is shown, whatever is rendered
        prior, text = network(part.prior, pixels // 8)
        made[name] = scene(name, prior, made)
        critic = base = None
        if "base" in (chosen := options(options(part.rule)["critic"][1])):
            base = chosen["base"][1]
            other = network(base, pixels // 8)[0] if base else None
            critic = LoRACritic(prior, base=other)
        learnt = sum(p.numel() for p in critic.learner.parameters.values()) if critic else 0
        leaves = sum(p.numel() for p in made[name].parameters().values())
        frozen = {"unet": prior.unet.num_parameters(), "vae": prior.vae.num_parameters(), "text_encoder": text}
        if base:
            frozen["critic's unet"] = critic.base.unet.num_parameters()
        peaks = moves(prior, critic, part.views, pixels)
        stays = 2 * sum(frozen.values()) + 16 * (learnt + leaves)
        rows.append({
            "part": name, "prior": part.prior, "scene": type(made[name]).__name__, "render": part.resolution,
            "latents": list(prior.shape), "views": part.views, "steps": options(part.rule)["grid"][1].steps,
            "parameters": frozen, "lora": learnt, "leaves": leaves, "stays_gb": round(stays / 1e9, 2),
            "moves_gb": {k: round(v / 1e9, 2) for k, v in peaks.items()},
            "about_gb": round((stays + max(peaks.values())) / 1e9, 1)})
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results/paper_parts.json")
    args = parser.parse_args(arguments)
    rows = measure()
    print("part       scene       px    latents     steps   UNet M    LoRA M  leaves M   stays GB   a step GB   about GB")
    for r in rows:
        shape = "x".join(map(str, r["latents"]))
        print(f"{r['part']:10s} {r['scene']:10s} {r['render']:5d} {shape:>12s} {r['steps']:7d} "
              f"{r['parameters']['unet'] / 1e6:8.1f} {r['lora'] / 1e6:9.2f} {r['leaves'] / 1e6:9.2f} {r['stays_gb']:10.2f} "
              f"{max(r['moves_gb'].values()):11.2f} {r['about_gb']:10.1f}")
    write_json(args.json, {"date": str(date.today()), "torch": torch.__version__, "rows": rows})
    return 0


if __name__ == "__main__":
    main()
