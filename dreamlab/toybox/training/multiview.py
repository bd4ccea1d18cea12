"""Training of the multi-view prior: the bundled prior's UNet, which learns where each of several cameras stands."""
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from dreamlab.cameras import Cameras, Orbit, orbit
from dreamlab.files import load_weights, writing
from dreamlab.priors.diffusion import DiffusionPrior
from dreamlab.priors.multiview import NUMBERS, Joined, camera_numbers, first_of_each
from dreamlab.toybox.captions import TEMPLATES, caption
from dreamlab.toybox.dataset import COLOUR_NAMES, GREY, KIND_NAMES, TRAIN_COLOURS
from dreamlab.toybox.objects import COLOURS, KINDS, Toy
from dreamlab.toybox.render import trace
from dreamlab.toybox.training.fit import amp, device, fit
from dreamlab.toybox.training.prior import CARD

RIGS, AROUND = 12, 24  # of a kind: heights, each with this many azimuths, evenly around
ELEVATIONS, RADIUS = (-20.0, 40.0), 2.4
MULTIVIEW = replace(CARD, base="toybox", critic_rate=None, guidance=2.0, joined=4, views=Orbit(ELEVATIONS, (RADIUS, RADIUS)))


@dataclass
class Turns:
    """Latents (kind, colour, rig, azimuth, c, h, w); the rigs' elevation and first azimuth in degrees (kind, rig)."""

    latents: Tensor
    elevation_deg: Tensor
    azimuth_deg: Tensor

    @staticmethod
    @torch.no_grad()
    def make(prior: DiffusionPrior, seed: int, cache: Path) -> "Turns":
        """Render every kind from ``RIGS`` heights, ``AROUND`` azimuths each, and encode it in its training colours."""
        shape = (len(KINDS), TRAIN_COLOURS.shape[1], RIGS, AROUND, *prior.shape)
        if cache.exists():
            like = {"latents": shape, "elevation_deg": shape[:3:2], "azimuth_deg": shape[:3:2]}
            return Turns(**load_weights(cache, "remove it, and it is made again", like))
        generator = torch.Generator().manual_seed(seed)
        low, high = ELEVATIONS
        heights = (torch.arange(RIGS) + torch.rand(len(KINDS), RIGS, generator=generator)) / RIGS * (high - low) + low
        first = torch.rand(len(KINDS), RIGS, generator=generator) * 360 / AROUND
        latents = torch.empty(shape, dtype=torch.float16)
        for k, kind in enumerate(tqdm(KINDS, desc="rendering turns")):
            for r in range(RIGS):
                azimuths = first[k, r] + torch.arange(AROUND) * (360 / AROUND)
                layers = trace(Toy(kind), orbit(azimuths, heights[k, r].item(), RADIUS), prior.resolution)
                for c, colour in enumerate(TRAIN_COLOURS[k].tolist()):
                    rgb = layers.rgb(torch.tensor(list(COLOURS.values())[colour]), torch.full((3,), GREY))
                    latents[k, c, r] = prior.encode(rgb.to(prior.device)).half().cpu()
        turns = Turns(latents, heights, first)
        with writing(cache) as part:
            save_file(vars(turns), part)
        return turns

    def cameras(self, kind: Tensor, rig: Tensor, place: Tensor) -> Cameras:
        """Of views (n,)."""
        return orbit(self.azimuth_deg[kind, rig] + place * (360 / AROUND), self.elevation_deg[kind, rig], RADIUS)

    def batch(self, rows: int, joined: int, generator: torch.Generator) -> tuple[Tensor, Cameras, list[str]]:
        """``rows`` latents, cameras and captions in sets of ``joined`` of one toy: rings of four views 90 degrees apart."""
        n, rings = rows // joined, joined // 4
        kind = torch.randint(len(KINDS), (n,), generator=generator)
        colour = torch.randint(TRAIN_COLOURS.shape[1], (n,), generator=generator)
        rig = torch.randint(RIGS, (n, rings), generator=generator)
        start = torch.randint(AROUND, (n, rings), generator=generator)
        place = (start[..., None] + torch.arange(4) * (AROUND // 4)) % AROUND
        words = torch.randint(len(TEMPLATES), (n,), generator=generator).tolist()
        captions = [caption(KIND_NAMES[k], COLOUR_NAMES[TRAIN_COLOURS[k, c]], None, TEMPLATES[w])
                    for k, c, w in zip(kind.tolist(), colour.tolist(), words, strict=True)]
        kind, colour, rig, place = (x.expand(n, rings, 4).reshape(-1) for x in (
            kind.view(n, 1, 1), colour.view(n, 1, 1), rig.view(n, rings, 1), place))
        return self.latents[kind, colour, rig, place].float(), self.cameras(kind, rig, place), captions


def train_multiview(out: Path, views: None = None, steps: int = 9000, batch: int = 16, seed: int = 7,
                    relative: bool = False) -> Path:
    """MVDream's way (arXiv 2308.16512) on the bundled prior: text and cameras -> 4 or 8 views of one object. Returns its
    folder. ``relative``: the bundled multi-view prior goes on, told cameras as if the first of a set stood at the front.

    One t a set, two thirds of them in [500, 999], where it is settled what is seen from where; the loss is min(1 + snr, 6)
    times the square error of the denoised latents. Sets are a ring of 4 views, in a third of the steps two rings; captions name
    no view, and 10 % are empty.
    """
    from diffusers import UNet2DConditionModel

    prior = DiffusionPrior.load("toybox", device())
    turns = Turns.make(prior, seed, out / "turns.safetensors")
    config = dict(prior.unet.config) | {  # the last: else what the file leaves to defaults stays so
        "class_embed_type": "projection", "projection_class_embeddings_input_dim": NUMBERS, "_use_default_values": [],
        "_name_or_path": ""}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel.from_config(config)
    lacks = unet.load_state_dict(prior.unet.state_dict(), strict=False)
    assert not lacks.unexpected_keys and all(key.startswith("class_embedding.") for key in lacks.missing_keys)
    for leaf in unet.class_embedding.linear_2.parameters():
        leaf.data.zero_()
    if relative:
        unet.load_state_dict(DiffusionPrior.load("toybox-multiview").unet.state_dict())
    unet.to(device()).set_attn_processor(Joined())
    embedded: dict[str, Tensor] = {}

    def loss(generator):
        joined = 8 if torch.rand((), generator=generator) < 1 / 3 else 4
        z, cameras, captions = turns.batch(batch, joined, generator)
        n = len(captions)
        captions = ["" if empty else text
                    for text, empty in zip(captions, torch.rand(n, generator=generator) < 0.1, strict=True)]
        for text in set(captions) - embedded.keys():
            embedded[text] = prior.embed([text])
        t = torch.randint(500, (n,), generator=generator) + 500 * (torch.rand(n, generator=generator) < 0.65)
        t, z = t.repeat_interleave(joined).to(device()), z.to(device())
        eps = torch.randn(z.shape, generator=generator).to(z)
        text = torch.cat([embedded[text] for text in captions]).repeat_interleave(joined, 0)
        numbers = camera_numbers(cameras, first_of_each(cameras, joined) if relative else None).to(z)
        with amp():
            predicted = unet(prior.add_noise(z, eps, t), t, text, class_labels=numbers,
                             cross_attention_kwargs={"views": joined}).sample.float()
        abar = prior.schedule.alphas_cumprod[t]
        snr = abar / (1 - abar)
        return ((predicted - eps).square().mean((1, 2, 3)) * (1 + snr).clamp_max(6) / snr).mean()

    name = "relative" if relative else "multiview"
    fit({"unet": unet}, loss, steps, 8e-4, out / f"checkpoints/{name}.pt", ema=0.998, seed=seed)
    folder = out / name
    unet.half().save_pretrained(folder / "unet")
    (replace(MULTIVIEW, relative=True) if relative else MULTIVIEW).write(folder)
    return folder
