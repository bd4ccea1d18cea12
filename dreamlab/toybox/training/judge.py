"""Training of the judge: on what text-to-3D gets wrong, and on pictures painted as a bad renderer would."""
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from dreamlab.cameras import Cameras, Orbit
from dreamlab.files import check_weights, load_weights, writing
from dreamlab.render.splat import splat
from dreamlab.toybox.dataset import Views
from dreamlab.toybox.judge import FRONT_DEG, RESOLUTION, Judge
from dreamlab.toybox.objects import COLOURS, KINDS, Points, Toy, lathe
from dreamlab.toybox.render import blur, shade, trace
from dreamlab.toybox.training.fit import amp, device, fit


def fronts_at(azimuths: list[float], turn: float = 0.0) -> Callable[[Points], Points]:
    """Warp that shows every azimuth (radians) the sector around the plain object's azimuth ``turn``.

    With turn 0 an object with a front at each azimuth, with turn pi one with backs only.
    """
    def warp(p):
        az = torch.atan2(p[:, 1], p[:, 0])
        away = (az[:, None] - torch.tensor(azimuths) + math.pi).remainder(2 * math.pi) - math.pi
        folded = away.gather(1, away.abs().argmin(1, keepdim=True))[:, 0] + turn
        r = p[:, :2].norm(dim=-1)
        return torch.stack([r * folded.cos(), r * folded.sin(), p[:, 2]], -1)
    return warp


def degrees_away(azimuth_deg: Tensor, fronts_deg: list[float]) -> Tensor:
    """Angle (B,) from each azimuth to the nearest of the fronts, 180 where there is none."""
    if not fronts_deg:
        return torch.full_like(azimuth_deg, 180.0)
    return ((azimuth_deg[:, None] - torch.tensor(fronts_deg) + 180).remainder(360) - 180).abs().amin(1)


def random_fronts(n: int, generator: torch.Generator) -> list[float]:
    """n azimuths in degrees, each two at least 75 degrees apart (n <= 4)."""
    slack = torch.rand(n, generator=generator)
    gaps = 75 + (360 - 75 * n) * slack / slack.sum()
    return (torch.rand(1, generator=generator) * 360 + gaps.cumsum(0)).remainder(360).tolist()


@dataclass
class Exhibits:
    """What the judge learns from: layers (N, 6, H, W) uint8 of fixed rgb, main weight, alpha and light (the look
    without texture), ``kind`` (N,), ``away`` (N,) degrees to the nearest front, and, sorted, ``group`` (N,): 0 the
    prior's views, 1 plain, 2 several fronts, 3 backs only, 4 lathe, 5 splats."""

    layers: Tensor
    kind: Tensor
    away: Tensor
    group: Tensor

    SHARES = (0.18, 0.24, 0.26, 0.10, 0.08, 0.14)  # of the groups in a batch

    @staticmethod
    def make(views: Views, seed: int = 0, cache: Path | None = None, share: float = 1.0,
             kinds: tuple[str, ...] = tuple(KINDS)) -> "Exhibits":
        """Trace the exhibits (a few minutes on a CPU; ``share`` < 1 makes fewer), kept in the file ``cache``."""
        if cache and cache.exists():
            mend = "remove it, and it is made again"
            n = len((found := load_weights(cache, mend)).get("kind", ()))  # as many as were traced
            check_weights(cache, found, {"layers": (n, 6, None, None), "kind": (n,), "away": (n,), "group": (n,)}, mend)
            return Exhibits(**found)
        g = torch.Generator().manual_seed(seed)
        light = torch.zeros_like(views.layers[:, :1])
        found = [(torch.cat([views.layers, light], 1), views.kind, degrees_away(views.azimuth_deg, [0.0]),
                  torch.zeros_like(views.kind))]

        def show(kind, group, fronts, toy, draw):
            cameras = Orbit().sample(8, g)
            n = len(cameras)
            found.append((draw(toy, cameras, g), torch.full((n,), list(KINDS).index(kind)),
                          degrees_away(cameras.azimuth_deg, fronts), torch.full((n,), group)))

        counts = [max(1, round(share * n)) for n in (20, 22, 5, 2, 8)]  # calls of `show`, eight views each, a kind
        for kind in tqdm(kinds, desc="tracing exhibits"):
            for _ in range(counts[0]):
                show(kind, 1, [0.0], Toy(kind), traced)
            for i in range(counts[1]):
                n = 2 + i // 2 % 3
                at = random_fronts(n, g) if i % 2 else [360 / n * j for j in range(n)]
                show(kind, 2, at, Toy(kind, fronts_at([math.radians(a) for a in at])), traced)
            for i in range(counts[2]):
                at = random_fronts(2 + i % 3, g)
                show(kind, 3, [], Toy(kind, fronts_at([math.radians(a) for a in at], math.pi)), traced)
            for _ in range(counts[3]):
                show(kind, 4, [], Toy(kind, lathe), traced)
            for i in range(counts[4]):
                at = [0.0] if i % 2 else random_fronts(2 + i // 2 % 3, g)
                show(kind, 5, at, Toy(kind, None if i % 2 else fronts_at([math.radians(a) for a in at])), splatted)
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
        layers[blank] = torch.cat([torch.zeros_like(layers[blank, :3]), layers[blank, 5:], layers[blank, 4:]], 1)
        pictures = spoil(layers[:, :5], torch.tensor(list(COLOURS.values()))[colour], generator)
        low, high = FRONT_DEG
        front = ((high - self.away[index]) / (high - low)).clamp(0, 1) * ~blank
        return pictures, self.kind[index], colour, front, group != 4


def _bytes(fixed, main, alpha, light) -> Tensor:
    stack = torch.cat([fixed, main, alpha, light], -1).permute(0, 3, 1, 2)
    return (stack.clamp(0, 1) * 255).round().to(torch.uint8)


def traced(toy: Toy, cameras: Cameras, generator: torch.Generator) -> Tensor:
    """Layers (B, 6, 64, 64) of a toy as it is."""
    layers = trace(toy, cameras, RESOLUTION)
    rays = cameras.rays(RESOLUTION)[1]
    light = shade(layers.normal.view(-1, 3), rays.reshape(-1, 3)).view_as(layers.alpha) * layers.alpha
    return _bytes(layers.fixed, layers.main, layers.alpha, light)


def splatted(toy: Toy, cameras: Cameras, generator: torch.Generator) -> Tensor:
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


def train_judge(out: Path, views: Views, steps: int = 3000, batch: int = 64, seed: int = 4) -> Path:
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
