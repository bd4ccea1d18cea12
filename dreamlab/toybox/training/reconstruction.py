"""Training of the bundled reconstruction network: views of toys and of jumbles to a volume that knows their surface."""
import json
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from dreamlab.cameras import Cameras, orbit
from dreamlab.costvolume import Reconstruction, sample
from dreamlab.files import load_weights, writing
from dreamlab.noise import subseed
from dreamlab.render.volume import inside_ball, neus_alpha
from dreamlab.toybox.fakes import Jumble, Moved
from dreamlab.toybox.objects import COLOURS, KINDS, Body, Toy
from dreamlab.toybox.render import trace
from dreamlab.toybox.training.fit import device, fit

UNSEEN = ("duck", "robot")  # kinds that are kept for the test
OBJECTS, VIEWS, POINTS = 160, 24, 12_000
RADIUS = 2.4


def body(index: int, seed: int) -> Body:
    """The object of a number: a toy that is seen, and then a jumble, stretched, turned and shifted at random."""
    u = torch.rand(8, generator=torch.Generator().manual_seed(subseed(seed, "body", index))).tolist()
    kinds = [kind for kind in KINDS if kind not in UNSEEN]
    plain = Toy(kinds[index // 2 % len(kinds)]) if index % 2 == 0 else Jumble(subseed(seed, "jumble", index))
    least = 0.8 if index % 2 == 0 else 0.64  # all stay within 0.9 of the middle, where a tracer looks
    return Moved(plain, tuple(least + 0.22 * x for x in u[:3]), 360 * u[3], tuple(0.12 * x - 0.06 for x in u[4:7]))


def cameras_of(index: int, seed: int) -> Cameras:
    """A ring of eight at one elevation, and sixteen from anywhere between -30 and 50 degrees."""
    g = torch.Generator().manual_seed(subseed(seed, "cameras", index))
    first, height, *_ = torch.rand(2, generator=g).tolist()
    ring = first * 45 + torch.arange(8) * 45.0
    free = (torch.arange(16) + torch.rand(16, generator=g)) * 22.5
    return orbit(torch.cat([ring, free]), torch.cat([torch.full((8,), 35 * height - 5), 80 * torch.rand(16, generator=g) - 30]),
                 RADIUS)


def make(seed: int, cache: Path) -> dict[str, Tensor]:
    """Views (n, v, 64, 64, 4) of rgb on white and alpha as uint8, and places (n, p, 3) with their signed distances (n, p)."""
    if cache.exists():
        like = {"views": (OBJECTS, VIEWS, 64, 64, 4), "places": (OBJECTS, POINTS, 3), "sdf": (OBJECTS, POINTS)}
        return load_weights(cache, "remove it, and it is made again", like)
    views, places, values = [], [], []
    palette = list(COLOURS.values())
    for i in tqdm(range(OBJECTS), desc="rendering objects"):
        g, thing = torch.Generator().manual_seed(subseed(seed, "object", i)), body(i, seed)
        layers = trace(thing, cameras_of(i, seed), 64)
        colour = torch.tensor(palette[int(torch.randint(len(palette), (), generator=g))])
        rgb = layers.rgb(colour, torch.ones(3))
        views.append((torch.cat([rgb, layers.alpha], -1).clamp(0, 1) * 255).round().to(torch.uint8))
        p = 2 * torch.rand(POINTS, 3, generator=g) - 1
        p = torch.where(torch.arange(POINTS)[:, None] < POINTS // 3, p, 0.85 * p)
        near = p[POINTS // 3 :]
        for _ in range(2):  # two thirds are near the surface
            near = near - thing.sdf(near)[:, None] * thing.normal(near)
        near = near + 0.08 * torch.randn(near.shape, generator=g)
        p = torch.cat([p[: POINTS // 3], near.clamp(-1, 1)])
        places.append(p)
        values.append(thing.sdf(p))
    made = {"views": torch.stack(views), "places": torch.stack(places), "sdf": torch.stack(values)}
    with writing(cache) as part:
        save_file(made, part)
    return made


def spoilt(cameras: Cameras, g: torch.Generator) -> Cameras:
    """Cameras a little off what they are said to be: what inconsistent views look like."""
    n, by = len(cameras), 2.5 * torch.rand((), generator=g)
    turn, lift, size = torch.randn(3, n, generator=g) * by
    return replace(cameras, azimuth_deg=cameras.azimuth_deg + turn, elevation_deg=(cameras.elevation_deg + lift).clamp(-80, 80),
                   radius=cameras.radius * (1 + 0.012 * size), target=0.012 * by * torch.randn(n, 3, generator=g))


def draw(data: dict[str, Tensor], i: int, seed: int, g: torch.Generator) -> tuple[Tensor, Tensor, Cameras]:
    """Views of object i to reconstruct from: 4 directions, or 4 to 12 of all; one of another object in 18 % of the draws,
    cameras a little off in 30 %, half of them blurred and with hard masks."""
    dice = torch.rand(5, generator=g).tolist()
    if dice[0] < 0.3:
        chosen = torch.arange(0, 8, 2) + int(dice[1] * 2)
    else:
        chosen = torch.randperm(VIEWS, generator=g)[: 4 + int(dice[1] * 9)]
    picked = data["views"][i, chosen].float() / 255
    if dice[2] < 0.18:
        other = int(torch.randint(OBJECTS, (), generator=g))
        picked[int(torch.randint(len(chosen), (), generator=g))] = data["views"][other, int(dice[1] * VIEWS)].float() / 255
    cameras = cameras_of(i, seed)[chosen]
    if dice[3] < 0.3:
        cameras = spoilt(cameras, g)
    images, masks = picked.split([3, 1], -1)
    if dice[4] < 0.5:  # as sampled views have them
        images = F.avg_pool2d(images.movedim(-1, 1), 3, 1, 1, count_include_pad=False).movedim(1, -1)
        masks = (masks > 0.5).float()
    return images, masks, cameras


def train_reconstruction(out: Path, views: None = None, steps: int = 3600, batch: int = 2, seed: int = 8) -> Path:
    """The cost volume's networks, on toys (duck and robot kept for the test) and as many jumbles. Returns their folder.

    Loss: L1 of the signed distance at 2,000 places, half as much where it exceeds 0.2; 0.3 L1 of the masks that NeuS renders
    along 256 rays of views that were not given; 0.1 of (|grad SDF| - 1)².
    """
    data = make(seed, out / "objects.safetensors")
    torch.manual_seed(seed)
    network = Reconstruction().to(device())

    def rays(i: int, g: torch.Generator, n: int = 256, sections: int = 40):
        """Ends of sections along rays of one view of an object, and the mask that they should have."""
        view = int(torch.randint(VIEWS, (), generator=g))
        camera = cameras_of(i, seed)[view : view + 1]
        eyes, directions = camera.rays(64)
        pixel = torch.randint(64 * 64, (n,), generator=g)
        d, o = directions.view(-1, 3)[pixel], eyes.expand(n, 3)
        near, far = inside_ball(o, d, 1.0)
        place = (torch.arange(sections + 1) + torch.rand(n, 1, generator=g) - 0.5) / sections
        t = near[:, None] + (far - near)[:, None] * place
        return o[:, None] + t[..., None] * d[:, None], data["views"][i, view].view(-1, 4)[pixel, 3].float() / 255, far > near

    def loss(g: torch.Generator) -> Tensor:
        chosen = torch.randint(OBJECTS, (batch,), generator=g).tolist()
        volumes = network([draw(data, i, seed, g) for i in chosen])
        total = 0.0
        for i, volume in zip(chosen, volumes, strict=True):
            at = torch.randint(POINTS, (2000,), generator=g)
            p, wanted = data["places"][i, at], data["sdf"][i, at]
            p.requires_grad_()
            found = network.sdf(volume, p)
            near = (wanted.abs() < 0.2).float() * 0.5 + 0.5
            slope, = torch.autograd.grad(found.sum(), p, create_graph=True)
            ends, mask, hit = rays(i, g)
            f = network.geometry(ends.reshape(-1, 3), sample(volume, ends.reshape(-1, 3)))[0].view(ends.shape[:2])
            alpha = neus_alpha(f, (10 * network.sharpness).exp())
            shown = 1 - (1 - alpha).prod(-1)
            total = total + ((found - wanted).abs() * near).mean() + 0.3 * ((shown - mask).abs() * hit).mean() \
                + 0.1 * (slope.norm(dim=-1) - 1).square().mean()
        return total / batch

    fit({"network": network}, loss, steps, 3e-3, out / "checkpoints/reconstruction.pt", seed=seed, weight_decay=0.0)
    folder = out / "reconstruction"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(network.config) + "\n")
    save_file({k: v.half().contiguous().cpu() if v.is_floating_point() else v for k, v in network.state_dict().items()},
              folder / "model.safetensors")
    return folder
