"""Training of the prior that turns a picture: the multi-view prior's UNet, which is given the picture in the place of text."""
import json
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from dreamlab.cameras import Cameras
from dreamlab.priors.diffusion import DiffusionPrior
from dreamlab.priors.multiview import NUMBERS, Joined, camera_numbers
from dreamlab.priors.zero123 import CameraProjection, clip_pixels, relative_pose
from dreamlab.toybox.dataset import TRAIN_COLOURS
from dreamlab.toybox.objects import COLOURS, KINDS
from dreamlab.toybox.training.fit import amp, device, fit
from dreamlab.toybox.training.multiview import AROUND, MULTIVIEW, RIGS, Turns
from dreamlab.toybox.training.prior import plain

EMBEDDING, TOKEN, HIDDEN = 128, 128, 384
RECOGNISING = 3500  # steps
ZERO123 = replace(MULTIVIEW, base="toybox", guidance=2.0, joined=6)


@torch.no_grad()
def pictures_of(prior: DiffusionPrior, turns: Turns) -> Tensor:
    """What the latents show, (kind, colour, rig, azimuth, h, w, 3) as uint8."""
    flat = turns.latents.flatten(0, 3)
    found = [(prior.decode(z.float().to(prior.device)) * 255).round().to(torch.uint8).cpu() for z in flat.split(64)]
    return torch.cat(found).unflatten(0, turns.latents.shape[:4])


def disturbed(images: Tensor, g: torch.Generator) -> Tensor:
    """Pictures shifted by up to 3 pixels, 0.9 to 1.1 times as large, a little lighter or darker, with noise."""
    n = len(images)
    u = torch.rand(n, 4, generator=g)
    size, shift = 0.9 + 0.2 * u[:, 0], (u[:, 1:3] - 0.5) * (6 / 32)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / size
    theta[:, :, 2] = shift
    x = F.grid_sample(images.movedim(-1, 1), F.affine_grid(theta, [n, 3, *images.shape[1:3]], align_corners=False),
                      padding_mode="border", align_corners=False).movedim(1, -1)
    return x + 0.06 * (u[:, 3].view(-1, 1, 1, 1) - 0.5) + 0.02 * torch.randn(x.shape, generator=g)


def sets(turns: Turns, n: int, joined: int, g: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """n sets: kind and colour (n,), and rig and place (n, 1 + joined), the first of them of the picture. One view is anywhere;
    of several, half stand evenly around at one height, and the others between them at another."""
    kind = torch.randint(len(KINDS), (n,), generator=g)
    colour = torch.randint(TRAIN_COLOURS.shape[1], (n,), generator=g)
    rings = min(joined, 2)
    rig = torch.randint(RIGS, (n, 1 + rings), generator=g)
    start = torch.randint(AROUND, (n, 2), generator=g)
    places = start[:, 1:] + torch.arange(joined) * (AROUND // joined)
    order = torch.tensor([0, *(1 + i % rings for i in range(joined))])
    return kind, colour, rig[:, order], torch.cat([start[:, :1], places], 1) % AROUND


def train_zero123(out: Path, views: None = None, steps: int = 3500, batch: int = 16, seed: int = 9) -> Path:
    """Zero123's way (arXiv 2303.11328) on the multi-view prior: a picture from anywhere, and relative poses -> 1, 6 or 8 views.

    First, in 3500 steps, a small CLIP vision encoder and the projection learn to say what is seen and from where, and
    what absolute camera a relative pose means; with that the UNet, which knows absolute cameras, begins. Then UNet and
    projection learn together; the encoder stays. One t a set, half of them in [500, 999]; loss min(1 + snr, 6) times the square
    error of the denoised latents; 10 % of the sets see no picture, that is zeros.
    """
    from diffusers import UNet2DConditionModel
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    prior = DiffusionPrior.load("toybox-multiview", device())
    turns = Turns.make(prior, 7, out / "turns.safetensors")
    pictures = pictures_of(prior, turns)
    torch.manual_seed(seed)
    encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(
        hidden_size=128, intermediate_size=256, projection_dim=EMBEDDING, num_hidden_layers=4, num_attention_heads=4,
        image_size=prior.resolution, patch_size=8)).to(device())
    projection = CameraProjection(EMBEDDING, TOKEN, HIDDEN).to(device())
    names = len(KINDS) + len(COLOURS)
    heads = nn.ModuleDict({"seen": nn.Linear(EMBEDDING, names + NUMBERS), "token": nn.Linear(TOKEN, names + NUMBERS)})
    heads.to(device())

    def said(found: Tensor, kind: Tensor, colour: Tensor, cameras: Cameras) -> Tensor:
        """What a head says of an object and a camera, against the truth."""
        kinds, colours, numbers = found.split([len(KINDS), len(COLOURS), NUMBERS], -1)
        return F.cross_entropy(kinds, kind.to(found.device)) + F.cross_entropy(colours, colour.to(found.device)) \
            + 4 * F.mse_loss(numbers, camera_numbers(cameras).to(found))

    def recognise(g: torch.Generator) -> Tensor:
        kind, colour, rig, place = sets(turns, 64, 1, g)
        named = TRAIN_COLOURS[kind, colour]
        images = disturbed(pictures[kind, colour, rig[:, 0], place[:, 0]].float() / 255, g).to(device())
        seen, wanted = (turns.cameras(kind, rig[:, i], place[:, i]) for i in (0, 1))
        with amp():
            embeds = encoder(clip_pixels(images, prior.resolution)).image_embeds.float()
        token = projection(embeds, relative_pose(wanted, seen))[:, 0]
        return said(heads["seen"](embeds), kind, named, seen) + said(heads["token"](token), kind, named, wanted)

    fit({"encoder": encoder, "projection": projection, "heads": heads}, recognise, RECOGNISING, 1e-3,
        out / "checkpoints/zero123-encoder.pt", seed=seed)
    encoder.eval().requires_grad_(False)
    with torch.no_grad():
        embeds = torch.cat([encoder(clip_pixels(x.float().to(device()) / 255, prior.resolution)).image_embeds
                            for x in pictures.flatten(0, 3).split(256)]).unflatten(0, pictures.shape[:4])
    config = dict(prior.unet.config) | {
        "in_channels": 2 * prior.shape[0], "projection_class_embeddings_input_dim": TOKEN, "_use_default_values": [],
        "_name_or_path": ""}
    unet, was = UNet2DConditionModel.from_config(config), prior.unet.state_dict()
    was["conv_in.weight"] = torch.cat([was["conv_in.weight"], torch.zeros_like(was["conv_in.weight"])], 1)
    reads, first = heads["token"], "class_embedding.linear_1"  # the token's absolute camera, and then as before
    was[f"{first}.bias"] = was[f"{first}.bias"] + was[f"{first}.weight"] @ reads.bias[-NUMBERS:].detach()
    was[f"{first}.weight"] = was[f"{first}.weight"] @ reads.weight[-NUMBERS:].detach()
    unet.load_state_dict(was)
    unet.to(device()).set_attn_processor(Joined())
    scale = prior.vae.config.scaling_factor

    def loss(g: torch.Generator) -> Tensor:
        joined = (1, 1, 1, 6, 6, 6, 6, 6, 8, 8)[int(torch.randint(10, (), generator=g))]
        n = max(1, batch // joined)
        kind, colour, rig, place = sets(turns, n, joined, g)
        rows = lambda x: x.repeat_interleave(joined, 0)  # noqa: E731
        z = turns.latents[kind[:, None], colour[:, None], rig, place].float().to(device())
        k, seen = rows(kind), turns.cameras(rows(kind), rows(rig[:, 0]), rows(place[:, 0]))
        cameras = turns.cameras(k, rig[:, 1:].reshape(-1), place[:, 1:].reshape(-1))
        shown = rows((torch.rand(n, generator=g) >= 0.1).float()).to(device())
        token = projection(rows(embeds[kind, colour, rig[:, 0], place[:, 0]]), relative_pose(cameras, seen))
        token = token * shown[:, None, None]
        beside = rows(z[:, 0]) / scale * shown.view(-1, 1, 1, 1)
        z = z[:, 1:].flatten(0, 1)
        t = torch.randint(500, (n,), generator=g) + 500 * (torch.rand(n, generator=g) < 0.5)
        t, eps = rows(t).to(device()), torch.randn(z.shape, generator=g).to(z)
        with amp():
            predicted = unet(torch.cat([prior.add_noise(z, eps, t), beside], 1), t, token, class_labels=token[:, 0],
                             cross_attention_kwargs={"views": joined}).sample.float()
        abar = prior.schedule.alphas_cumprod[t]
        snr = abar / (1 - abar)
        return ((predicted - eps).square().mean((1, 2, 3)) * (1 + snr).clamp_max(6) / snr).mean()

    fit({"unet": unet, "projection": projection}, loss, steps, 6e-4, out / "checkpoints/zero123.pt", ema=0.998, seed=seed)
    folder = out / "zero123"
    unet.half().save_pretrained(folder / "unet")
    encoder.half().save_pretrained(folder / "image_encoder")
    (folder / "clip_camera_projection").mkdir(parents=True, exist_ok=True)
    (folder / "clip_camera_projection/config.json").write_text(json.dumps(projection.config) + "\n")
    save_file({k: v.detach().half().contiguous().cpu() for k, v in projection.state_dict().items()},
              folder / "clip_camera_projection/diffusion_pytorch_model.safetensors")
    plain(folder)
    ZERO123.write(folder)
    return folder
