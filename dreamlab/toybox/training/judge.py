"""Training of the judge: on what text-to-3D gets wrong, and on pictures painted as a bad renderer would."""
import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from dreamlab.cameras import Cameras, Orbit, orbit
from dreamlab.files import check_weights, load_weights, writing
from dreamlab.render.splat import splat
from dreamlab.toybox.dataset import Views
from dreamlab.toybox.fakes import Egg, card, fronts_at, spotted
from dreamlab.toybox.judge import FRONT_DEG, RESOLUTION, Judge
from dreamlab.toybox.objects import COLOURS, KINDS, Body, Toy, lathe
from dreamlab.toybox.render import blur, shade, trace, untextured
from dreamlab.toybox.training.fit import amp, device, fit


def degrees_away(azimuth_deg: Tensor, fronts_deg: list[float]) -> Tensor:
    """Angle (B,) from each azimuth to the nearest of the fronts, 180 where there is none."""
    if not fronts_deg:
        return torch.full_like(azimuth_deg, 180.0)
    return ((azimuth_deg[:, None] - torch.tensor(fronts_deg) + 180).remainder(360) - 180).abs().amin(1)


def random_fronts(n: int, generator: torch.Generator, close: bool = False) -> list[float]:
    """n azimuths in degrees, each two at least 75 degrees apart (n <= 4); ``close``: and next to each other within 95."""
    slack = torch.rand(n, generator=generator)
    gaps = 75 + 20 * slack if close else 75 + (360 - 75 * n) * slack / slack.sum()
    return (torch.rand(1, generator=generator) * 360 + gaps.cumsum(0)).remainder(360).tolist()


def between(cameras: Cameras, fronts_deg: list[float], generator: torch.Generator) -> Cameras:
    """The same cameras, half of them moved to within 12 degrees of the middle between two neighbouring fronts."""
    at = torch.tensor(sorted(fronts_deg))
    middle = at + (at.roll(-1) - at).remainder(360) / 2
    chosen = middle[torch.randint(len(middle), (len(cameras),), generator=generator)]
    moved = (chosen + 24 * torch.rand(len(cameras), generator=generator) - 12).remainder(360)
    return replace(cameras, azimuth_deg=torch.where(torch.arange(len(cameras)) % 2 == 0, moved, cameras.azimuth_deg))


@dataclass
class Exhibits:
    """What the judge learns from: layers (N, 6, H, W) uint8 of fixed rgb, main weight, alpha and light (the look
    without texture), ``kind`` (N,), ``away`` (N,) degrees to the nearest front, and, sorted, ``group`` (N,): 0 the
    prior's views, 1 plain, 2 several fronts, 3 backs only, 4 lathe, 5 splats, 6 spots on bodies with and without a front,
    7 cards with a front on one side or on both."""

    layers: Tensor
    kind: Tensor
    away: Tensor
    group: Tensor

    SHARES = (0.14, 0.20, 0.23, 0.07, 0.05, 0.12, 0.15, 0.04)  # of the groups in a batch
    NAMELESS = (4, 6, 7)  # groups that say nothing of a kind

    @staticmethod
    def make(views: Views, seed: int = 0, cache: Path | None = None, share: float = 1.0,
             kinds: tuple[str, ...] = tuple(KINDS)) -> "Exhibits":
        """Trace the exhibits (some ten minutes on a CPU; ``share`` < 1 makes fewer), kept in the file ``cache``."""
        if cache and cache.exists():
            mend = "remove it, and it is made again"
            n = len((found := load_weights(cache, mend)).get("kind", ()))  # as many as were traced
            check_weights(cache, found, {"layers": (n, 6, None, None), "kind": (n,), "away": (n,), "group": (n,)}, mend)
            return Exhibits(**found)
        g = torch.Generator().manual_seed(seed)
        light = torch.zeros_like(views.layers[:, :1])
        found = [(torch.cat([views.layers, light], 1), views.kind, degrees_away(views.azimuth_deg, [0.0]),
                  torch.zeros_like(views.kind))]

        def keep(layers, kind, away, group):
            n = len(layers)
            found.append((layers, torch.full((n,), list(KINDS).index(kind)), away, torch.full((n,), group)))

        def show(kind, group, fronts, toy, draw=traced):
            cameras = Orbit().sample(8, g)
            if len(fronts) > 1:
                cameras = between(cameras, fronts, g)
            keep(draw(toy, cameras, g), kind, degrees_away(cameras.azimuth_deg, fronts), group)

        def warped(kind, at, turn=0.0):
            return Toy(kind, fronts_at([math.radians(a) for a in at], turn))

        counts = [max(1, round(share * n)) for n in (20, 36, 5, 2, 8, 40, 3)]  # calls, eight views each, a kind
        for kind in tqdm(kinds, desc="tracing exhibits"):
            for _ in range(counts[0]):
                show(kind, 1, [0.0], Toy(kind))
            for i in range(counts[1]):
                n = 2 + i // 3 % 3
                at = [360 / n * j for j in range(n)] if i % 3 == 0 else random_fronts(n, g, i % 3 == 1)
                show(kind, 2, at, warped(kind, at))
            for i in range(counts[2]):
                show(kind, 3, [], warped(kind, random_fronts(2 + i % 3, g), math.pi))
            for _ in range(counts[3]):
                show(kind, 4, [], Toy(kind, lathe))
            for i in range(counts[4]):
                at = [0.0] if i % 2 else random_fronts(2 + i // 2 % 3, g)
                show(kind, 5, at, Toy(kind) if i % 2 else warped(kind, at), splatted)
            for i in range(counts[5]):
                u = torch.rand(4, generator=g).tolist()
                n = round(24 ** u[3])  # as often 1 to 3 as 8 to 24
                if i % 5 < 2:
                    body = spotted(Egg(radii=tuple(0.3 + 0.35 * v for v in u[:3])), n, g)
                elif i % 5 == 2:
                    body = spotted(Toy(kind), n, g)
                elif i % 5 == 3:
                    back = Toy(kind, lathe) if u[0] < 0.4 else warped(kind, random_fronts(2, g), math.pi)
                    body = spotted(back, n, g, bare=False)
                else:
                    body = spotted(Toy(kind), 1 + n // 3, g, bare=False, behind_deg=75.0)
                show(kind, 6, [0.0] if i % 5 == 4 else [], body)
            for _ in range(counts[6]):
                for layers, away in cards(kind, g):
                    keep(layers, kind, away, 7)
        found.sort(key=lambda part: part[3][0].item())
        exhibits = Exhibits(*(torch.cat(part) for part in zip(*found, strict=True)))
        if cache:
            with writing(cache) as part:
                save_file(vars(exhibits), part)
        return exhibits

    def batch(self, n: int, generator: torch.Generator):
        """n pictures (n, 3, H, W) in [0, 1], kind, colour, target of the front in [0, 1], whether the kind counts."""
        group = torch.multinomial(torch.tensor(self.SHARES), n, replacement=True, generator=generator)
        bounds = torch.searchsorted(self.group, torch.arange(len(self.SHARES) + 1))
        low, high = bounds[group], bounds[group + 1]
        index = (low + (high - low) * torch.rand(n, generator=generator)).long()
        colour = torch.randint(len(COLOURS), (n,), generator=generator)
        blank = (torch.rand(n, generator=generator) < 0.10) & (group > 0)
        layers = self.layers[index].float() / 255
        layers[blank] = bare(layers[blank])
        pictures = spoil(layers[:, :5], torch.tensor(list(COLOURS.values()))[colour], generator)
        low, high = FRONT_DEG
        front = ((high - self.away[index]) / (high - low)).clamp(0, 1) * ~blank
        return pictures, self.kind[index], colour, front, ~torch.isin(group, torch.tensor(self.NAMELESS))


def bare(layers: Tensor) -> Tensor:
    """The layers (..., 6, H, W) of the same shape with the main colour everywhere."""
    fixed, _, alpha, light = layers.split([3, 1, 1, 1], -3)
    return torch.cat([torch.zeros_like(fixed), light, alpha, light], -3)


def _bytes(fixed, main, alpha, light) -> Tensor:
    stack = torch.cat([fixed, main, alpha, light], -1).permute(0, 3, 1, 2)
    return (stack.clamp(0, 1) * 255).round().to(torch.uint8)


def traced(toy: Body, cameras: Cameras, generator: torch.Generator) -> Tensor:
    """Layers (B, 6, 64, 64) of a toy as it is."""
    layers = trace(toy, cameras, RESOLUTION)
    return _bytes(layers.fixed, layers.main, layers.alpha, untextured(layers, cameras).main)


def cards(kind: str, generator: torch.Generator):
    """Views of a card with the kind's front on one side, and of one with it on both: (layers, degrees to the nearest front).

    Between 15 degrees from a front and 75 it is anybody's guess whether a squeezed picture shows one; no view is from there.
    """
    eye = orbit(0.0, 20 * torch.rand(1, generator=generator))
    front = traced(Toy(kind), eye, generator)[0].float() / 255
    u, side, near = torch.rand(3, 16, generator=generator)
    sign = torch.where(side < 0.5, -1.0, 1.0)
    cameras = replace(Orbit().sample(16, generator), azimuth_deg=torch.where(near < 0.6, 15 * u, 75 + 15 * u) * sign
                      + torch.where(torch.arange(16) % 2 == 0, 0.0, 180.0))
    for back, fronts in ((bare(front), [0.0]), (front, [0.0, 180.0])):
        layers = card(front, back, eye, cameras, RESOLUTION)
        yield (layers * 255).round().to(torch.uint8), degrees_away(cameras.azimuth_deg, fronts)


def splatted(toy: Body, cameras: Cameras, generator: torch.Generator) -> Tensor:
    """The same layers of a toy rebuilt from 1,000 to 3,000 Gaussians that miss its surface by up to 0.02."""
    u, v = torch.rand(2, generator=generator).tolist()
    p = toy.surface_points(round(1000 + 2000 * u), generator)
    fixed, main = toy.paint(p)
    light = shade(toy.normal(p), torch.zeros_like(p)) + 0.15
    means = p + 0.02 * v * torch.randn(p.shape, generator=generator)
    size = (0.045 - 0.02 * u) * (0.3 * torch.randn(p.shape, generator=generator)).exp()
    quats = torch.randn(len(p), 4, generator=generator)
    opacity = torch.full((len(p),), 0.85)
    draw = lambda c: splat(means, quats, size, opacity, c, cameras, RESOLUTION, torch.zeros(3))  # noqa: E731
    a, b = draw(fixed * light), draw(torch.cat([main[:, None] * light, light, light], -1))
    return _bytes(a.rgb, b.rgb[..., :1], b.alpha, b.rgb[..., 1:2])


def _smooth(shape, size: int, generator: torch.Generator) -> Tensor:
    """Noise of unit strength that varies over ``size`` cells across the picture."""
    coarse = torch.randn(*shape[:2], size, size, generator=generator)
    return F.interpolate(coarse, shape[-2:], mode="bilinear", align_corners=False)


def spoil(layers: Float[Tensor, "n 5 h w"], colour: Float[Tensor, "n 3"],
          generator: torch.Generator) -> Float[Tensor, "n 3 h w"]:
    """Paint layers as a bad renderer would: moved, mirrored, patchy, on any background, off-colour, blurred, noisy."""
    n = len(layers)
    r = torch.rand(n, 16, generator=generator)
    size, roll = 1 + 0.15 * (2 * r[:, 0] - 1), 0.08 * (2 * r[:, 1] - 1)
    mirror = torch.where(r[:, 2] < 0.5, -1.0, 1.0)
    x, y = 0.12 * (2 * r[:, 3] - 1), 0.12 * (2 * r[:, 4] - 1)
    affine = torch.stack([torch.stack([roll.cos() * mirror, -roll.sin(), x], -1),
                          torch.stack([roll.sin() * mirror, roll.cos(), y], -1)], 1) / size[:, None, None]
    layers = F.grid_sample(layers, F.affine_grid(affine, list(layers.shape), align_corners=False), align_corners=False)
    share = lambda i, chance: (r[:, i] < chance).float()[:, None, None, None] * r[:, i + 1].view(-1, 1, 1, 1)  # noqa: E731
    patchy = (1 + 0.35 * share(5, 0.4) * _smooth((n, 1, *layers.shape[2:]), 10, generator)).clamp(0, 1.5)
    holes = (1 - 0.6 * share(7, 0.25) * _smooth((n, 1, *layers.shape[2:]), 12, generator).clamp(0, 1))
    fixed, main, alpha = (layers * holes).split([3, 1, 1], 1)
    jitter = 0.04 * torch.randn(n, 3, generator=generator)
    background = torch.where(r[:, 9:10] < 0.35, 1.0, torch.rand(n, 3, generator=generator))[:, :, None, None]
    body = (fixed + main * (colour + jitter).clamp(0, 1)[:, :, None, None]) * patchy
    grey = body.mean(1, keepdim=True)
    body = grey + (body - grey) * (0.75 + 0.6 * r[:, 10].view(-1, 1, 1, 1))
    body = body * (1 + 0.15 * torch.randn(n, 1, 1, 1, generator=generator)).clamp(0.6, 1.4)
    picture = body + (1 - alpha) * background
    soft = torch.where((r[:, 11] < 0.5).view(-1, 1, 1, 1), blur(picture, 0.9), blur(picture, 1.8))
    picture = torch.lerp(picture, soft, (1.6 * r[:, 12] - 0.6).clamp(0, 1).view(-1, 1, 1, 1))
    grain = torch.where((r[:, 13] < 0.6).view(-1, 1, 1, 1), torch.randn(picture.shape, generator=generator),
                        _smooth(picture.shape, 24, generator))
    return (picture + 0.08 * (1.5 * r[:, 14] - 0.5).clamp(0, 1).view(-1, 1, 1, 1) * grain).clamp(0, 1)


def train_judge(out: Path, views: Views, steps: int = 4000, batch: int = 64, seed: int = 4) -> Path:
    """Train the judge on ``views`` and its own exhibits; writes fp16 ``judge.safetensors`` into the folder it returns.

    Loss: cross-entropy of kind and colour, and binary cross-entropy of the front against the target of ``FRONT_DEG``.
    """
    exhibits = Exhibits.make(views, cache=out / "exhibits.safetensors")
    torch.manual_seed(seed)
    judge = Judge().to(device(), memory_format=torch.channels_last)

    def loss(generator):
        x, kind, colour, front, counts = (y.to(device()) for y in exhibits.batch(batch, generator))
        with amp():
            heads = judge(x.contiguous(memory_format=torch.channels_last))
        kinds, colours, fronts = (y.float() for y in heads)
        return (F.cross_entropy(kinds[counts], kind[counts]) + F.cross_entropy(colours, colour)
                + 2 * F.binary_cross_entropy_with_logits(fronts, front))

    fit({"judge": judge}, loss, steps, 3e-3, out / "checkpoints/judge.pt", ema=0.99, seed=seed)
    folder = out / "judge"
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.half() if v.is_floating_point() else v for k, v in judge.state_dict().items()}
    save_file({k: v.cpu().contiguous() for k, v in weights.items()}, folder / "judge.safetensors")
    return folder
