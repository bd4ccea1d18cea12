"""A method's parts at the paper's size, without a GPU: ``python -m benchmarks.paper_parts`` writes results/paper_parts.json of
DreamFlow, ``python -m benchmarks.paper_parts geodream`` results/paper_geodream.json.

Scenes are made by the parts' own starts, of a ball where a part needs an earlier one. GeoDream's volume is made by One-2-3-45's
network, at its size and with random weights, of random views from where the method has them; the networks that make those come
first, as rows ``views`` and ``turn``. The networks have the published shapes and no numbers (torch's meta device), the LoRA
critic is our own on them. Counted are parameters; bytes that stay: frozen networks in half precision, the scene and the LoRA
each with gradient and Adam's two moments in float32; and the most that the tensors made by the networks hold at once
(:class:`dreamlab.memory.Live`) in the dearest of a step's moves: predicting with both texts, fitting the LoRA, and the
autoencoder's encoding with its gradient. Renderers are not in it, but for a NeuS of a ball: its drawing, with the gradient, is
counted at 64 pixels and goes up with their number. What it says is an estimate of memory; seconds want a GPU.
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
from dreamlab.cameras import orbit
from dreamlab.costvolume import Geometry
from dreamlab.files import write_json
from dreamlab.memory import Live
from dreamlab.methods import METHODS
from dreamlab.noise import Schedule, stream
from dreamlab.one2345 import One2345
from dreamlab.pipeline import Part
from dreamlab.priors.critic import LoRACritic
from dreamlab.priors.diffusion import DiffusionPrior, quiet, unet_eps
from dreamlab.priors.multiview import NUMBERS
from dreamlab.priors.zero123 import CameraProjection
from dreamlab.prompts import Condition
from dreamlab.scenes import NeRF, NeuS, Scene, Tets
from dreamlab.scenes.base import Begin
from dreamlab.scenes.nerf import HashGrid
from dreamlab.scenes.tets import within
from dreamlab.scenes.textured import texture_grid
from dreamlab.settings import options
from dreamlab.viewpoints import cameras_of

# Of Stable Diffusion 2.1 base and XL's refiner, MVDream and Zero123-XL; everything else is the libraries' default
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
MVDREAM, ZERO123 = "ashawkey/mvdream-sd2.1-diffusers", "bennyguo/zero123-xl-diffusers"
UNETS = {"sdxl-refiner": XL_UNET,
         MVDREAM: SD21 | {"class_embed_type": "projection", "projection_class_embeddings_input_dim": NUMBERS},
         ZERO123: {"sample_size": 32, "in_channels": 8, "out_channels": 4, "cross_attention_dim": 768, "attention_head_dim": 8}}
VISION = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
          "patch_size": 14, "projection_dim": 768}
FILES = {"dreamflow": "paper_parts.json", "geodream": "paper_geodream.json"}
MADE_AT = 256  # pixels of source views


def network(name: str, size: int) -> tuple[DiffusionPrior, int]:
    """A prior of the paper's by its name, on the meta device, for latents of that size; and the parameters of its encoder of
    texts, or of pictures with the projection of cameras."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    xl = name == "sdxl-refiner"
    with quiet(), torch.device("meta"):
        unet, vae = UNet2DConditionModel(**UNETS.get(name, SD21)).half(), AutoencoderKL(**VAE).half()
        if name == ZERO123:
            text = nn.ModuleList([CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION)), CameraProjection()])
        else:
            text = CLIPTextModelWithProjection(CLIPTextConfig(**XL_TEXT)) if xl else CLIPTextModel(CLIPTextConfig(**TEXT))
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    prior = DiffusionPrior(SimpleNamespace(unet=unet, vae=vae, scheduler=scheduler, vae_scale_factor=8,
                                           **{"text_encoder_2" if xl else "text_encoder": nn.Identity()}))
    prior.shape, prior.schedule = (4, size, size), Schedule.scaled_linear()  # with numbers, to be compared
    if name == ZERO123:
        prior.reads["seen"] = size
    return prior, sum(p.numel() for p in text.parameters())


@torch.no_grad()
def neus(about: dict, ball: bool = False) -> NeuS:
    """One-2-3-45's volume of random views, and the network that reads it; or a ball of the same sizes."""
    generator = stream(0, "start")
    grid = texture_grid(about["levels"], about["finest"], generator)
    if ball:
        volume, geometry = torch.zeros(16, 150, 150, 150), Geometry()
    else:
        cameras = cameras_of(about["viewpoints"](generator), about["fov_deg"])
        images = torch.rand(len(cameras), MADE_AT, MADE_AT, 3, generator=generator)
        network = One2345(first=cameras[:1]).eval()
        volume, geometry = network([(images, torch.ones_like(images[..., :1]), cameras)])[0], network.geometry
    return NeuS(volume, geometry, about["sharpness"], about["samples"], grid, about["hidden"], sky=about["sky"],
                generator=generator)


def scene(part: Part, prior: DiffusionPrior, earlier: dict[str, Scene]) -> Scene:
    """The scene of a part at the paper's size: by its start, but for a NeuS, and for the mesh, which here begins as a ball."""
    begin, about = Begin("", prior, stream(0, "start"), lambda of: earlier[of]), options(part.start)
    if part.scene is NeuS:
        return neus({name: value for name, (_, value) in about.items()})
    if part.scene is not Tets:
        return part.start(begin)
    field: NeRF | NeuS = earlier[about["of"][1]]
    box = torch.tensor([[-1.0] * 3, [1.0] * 3])
    grid = HashGrid(**field.grid.config, generator=begin.generator)
    return Tets(within(box, about["cells"][1] + 1).norm(dim=-1) - 0.5, box, grid, field.hidden, field.radius,
                begin.generator)


def most(move) -> int:
    """Bytes that the tensors made in a move hold at once, at most."""
    gc.collect()
    with Live() as live:
        move()
    return live.most


def moves(prior: DiffusionPrior, critic: LoRACritic | None, views: int, pixels: int, learns: bool = True) -> dict[str, int]:
    """Bytes of each move of a step; of one of sampling, where nothing ``learns``."""
    def condition(n: int) -> Condition:
        shapes = {k: (v,) for k, v in prior.reads.items()} | {
            "text": (1 if "seen" in prior.reads else 77, prior.reads["text"])}
        if "seen" in shapes:
            shapes["seen"] = prior.shape
        return Condition({k: torch.empty(n, *shape, device="meta") for k, shape in shapes.items()})

    def noisy(n: int) -> tuple:
        return torch.empty(n, *prior.shape, device="meta"), torch.zeros(n, dtype=torch.long, device="meta"), condition(n)

    @torch.no_grad()
    def predict():
        prior._eps(*noisy(2 * views))

    def fit():
        x_t, t, cond = noisy(views)
        more = {"class_labels": torch.empty(views, NUMBERS, device="meta", dtype=torch.half)} if critic.camera else {}
        fitted = critic.unet.half()  # autocast knows no meta device
        unet_eps(critic.base, fitted, x_t, t, cond, **more).square().mean().backward()

    def encode():
        images = torch.empty(views, 3, pixels, pixels, dtype=prior.vae.dtype, device="meta", requires_grad=True)
        prior.vae.encode(images).latent_dist.mean.sum().backward()

    return {"predict": most(predict)} | ({"fit": most(fit)} if critic else {}) | ({"encode": most(encode)} if learns else {})


def draws(about: dict, pixels: int, small: int = 64) -> int:
    """Bytes of drawing a ball as a NeuS, with the gradient."""
    ball = neus(about, ball=True)
    camera = orbit(30.0, radius=2.5, fov_deg=50.0)
    return most(lambda: ball.render(camera, small, None).rgb.sum().backward()) * (pixels // small) ** 2


def row(part: str, name: str, prior: DiffusionPrior, frozen: dict[str, int], peaks: dict[str, int], views: int, pixels: int,
        steps: int = 0, made: Scene | None = None, lora: int = 0) -> dict:
    """What is written of a part: of the prior of that name, the parameters of its networks, the bytes of each move."""
    leaves = sum(p.numel() for p in made.parameters().values()) if made else 0
    stays = 2 * sum(frozen.values()) + 16 * (lora + leaves)
    return {"part": part, "prior": name, "scene": type(made).__name__ if made else "", "render": pixels,
            "latents": list(prior.shape), "views": views, "steps": steps, "parameters": frozen, "lora": lora, "leaves": leaves,
            "stays_gb": round(stays / 1e9, 2), "moves_gb": {k: round(v / 1e9, 2) for k, v in peaks.items()},
            "about_gb": round((stays + max(peaks.values())) / 1e9, 1)}


def frozen_of(prior: DiffusionPrior, text: int) -> dict[str, int]:
    return {"unet": prior.unet.num_parameters(), "vae": prior.vae.num_parameters(), "text_encoder": text}


def makers(about: dict) -> list[dict]:
    """A row for each prior that makes source views: how many at once, at the guidance of sampling."""
    listed, rows = about["viewpoints"](stream(0, "start")), []
    together = sum(view.of == i for i, view in enumerate(listed))
    most_of_one = max(sum(view.of == of for view in listed) - 1 for of in range(together))
    for part, views in (("views", together), ("turn", most_of_one)):
        prior, text = network(about[part], MADE_AT // 8)
        prior.joined = views
        peaks = moves(prior, None, views, MADE_AT, learns=False)
        rows.append(row(part, about[part], prior, frozen_of(prior, text), peaks, views, MADE_AT))
    return rows


def measure(parts: dict[str, Part]) -> list[dict]:
    """A row for each part."""
    rows, made = [], {}
    for name, part in parts.items():
        about = {name: value for name, (_, value) in options(part.start).items()}
        if part.scene is NeuS:
            rows += makers(about)
        pixels = 1024 if part.prior == "sdxl-refiner" else 512  # what the prior is shown, whatever is rendered
        prior, text = network(part.prior, pixels // 8)
        made[name], frozen, critic = scene(part, prior, made), frozen_of(prior, text), None
        rule = {name: value for name, (_, value) in options(part.rule).items()}
        if "base" in (chosen := options(rule.get("critic"))):
            base = chosen["base"][1]
            critic = LoRACritic(prior, base=network(base, pixels // 8)[0] if base else None, camera=chosen["camera"][1])
            if base:
                frozen["critic's unet"] = critic.base.unet.num_parameters()
        peaks = moves(prior, critic, part.views, pixels)
        if part.scene is NeuS:
            peaks["draw"] = draws(about, part.resolution)
        learnt = sum(p.numel() for p in critic.learner.parameters.values()) if critic else 0
        steps = part.steps or rule["grid"].steps
        rows.append(row(name, part.prior, prior, frozen, peaks, part.views, part.resolution, steps, made[name], learnt))
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("method", nargs="?", choices=FILES, default="dreamflow")
    parser.add_argument("--json", type=Path, help="default: in benchmarks/results")
    args = parser.parse_args(arguments)
    rows = measure(METHODS[args.method].paper)
    print("part       scene       px    latents     steps   UNet M    LoRA M  leaves M   stays GB   a step GB   about GB")
    for r in rows:
        shape = "x".join(map(str, r["latents"]))
        print(f"{r['part']:10s} {r['scene']:10s} {r['render']:5d} {shape:>12s} {r['steps']:7d} "
              f"{r['parameters']['unet'] / 1e6:8.1f} {r['lora'] / 1e6:9.2f} {r['leaves'] / 1e6:9.2f} {r['stays_gb']:10.2f} "
              f"{max(r['moves_gb'].values()):11.2f} {r['about_gb']:10.1f}")
    path = args.json or Path(__file__).parent / "results" / FILES[args.method]
    write_json(path, {"date": str(date.today()), "torch": torch.__version__, "rows": rows})
    return 0


if __name__ == "__main__":
    main()
