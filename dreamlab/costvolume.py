"""From views to a volume: GeoDream's 3D prior (arXiv 2311.17971), a cost volume as in SparseNeuS (arXiv 2206.05737).

    V = f_3D({mean, variance} of the views' features f_2D at each cell),   (SDF(x), more) = f_g(E(x), V(x))

The features that views have at the place to which a cell projects agree where there is a surface that all of them see: their
variance is small (Eq. 1; the official network also reads their mean). E is a positional encoding, V(x) trilinear. Beside the
network stands what needs no learning: the visual hull (:func:`hull`). Images are (V, H, W, 3) in [0, 1] on white, masks
(V, H, W, 1); the volume fills the cube [-1, 1]³, cell i of n along an axis has its centre at (2 i + 1) / n - 1.
"""
import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dreamlab.cameras import Cameras
from dreamlab.files import load_weights
from dreamlab.mesh import Mesh
from dreamlab.render.mesh import rasterize

WEIGHTS = Path(__file__).parent / "toybox/weights/reconstruction"
Volume = Float[Tensor, "c n n n"]


def centres(n: int) -> Float[Tensor, "n n n 3"]:
    """The centres of the cells of a cube of n³ over [-1, 1]³, x first."""
    axis = (2 * torch.arange(n) + 1) / n - 1
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)


def project(points: Float[Tensor, "p 3"],
            cameras: Cameras) -> tuple[Float[Tensor, "v p 2"], Bool[Tensor, "v p"], Float[Tensor, "v p"]]:
    """Where points are seen: places (x right, y down) in [-1, 1] over each picture, whether inside it, and depth along z."""
    view = cameras.viewmats.to(points)
    local = points @ view[:, :3, :3].transpose(1, 2) + view[:, None, :3, 3]
    depth = local[..., 2]
    xy = local[..., :2] / depth.clamp(min=1e-6)[..., None] / (cameras.fov_deg.to(points).deg2rad() / 2).tan()[:, None, None]
    return xy, (xy.abs() <= 1).all(-1) & (depth > 1e-6), depth


def look(pictures: Float[Tensor, "v c h w"], xy: Float[Tensor, "v p 2"]) -> Float[Tensor, "v c p"]:
    """Pictures at places in [-1, 1], bilinear between the centres of pixels."""
    return F.grid_sample(pictures, xy[:, None], align_corners=False, padding_mode="border")[:, :, 0]


def aggregate(features: Float[Tensor, "v c h w"], cameras: Cameras,
              points: Float[Tensor, "p 3"]) -> tuple[Float[Tensor, "c p"], Float[Tensor, "c p"], Float[Tensor, "p"]]:
    """Mean and variance (E[f²] - E[f]²) of the features that the views have of each point, over those that have it in their
    picture, and how many these are. 0 where fewer than two do."""
    xy, inside, _ = project(points, cameras)
    seen, m = look(features, xy), inside[:, None].to(features)
    count = m.sum(0)
    both = (count >= 2).to(features) / count.clamp(min=1)
    mean = (seen * m).sum(0) * both
    variance = ((seen - mean).square() * m).sum(0) * both
    return mean, variance, count[0]


def hull(masks: Float[Tensor, "v h w 1"], cameras: Cameras, points: Float[Tensor, "p 3"]) -> Float[Tensor, "p"]:
    """The visual hull: alpha - 1/2 in the view that has least of it, above 0 inside. Every picture is taken to hold the whole
    object, so that nothing is where a view does not look."""
    xy, inside, _ = project(points, cameras)
    return look(masks.movedim(-1, 1), xy)[:, 0].masked_fill(~inside, 0.0).amin(0) - 0.5


def agreement(masks: Float[Tensor, "v h w 1"], cameras: Cameras, cells: int = 48) -> Float[Tensor, "v"]:
    """How well each view's mask agrees with the visual hull of all other views: the intersection over union of the mask and the
    hull's silhouette in that view. Of few views the hull is large, and all agree less."""
    points = centres(cells).view(-1, 3).to(masks)
    xy, inside, _ = project(points, cameras)
    seen = look(masks.movedim(-1, 1), xy)[:, 0].masked_fill(~inside, 0.0)
    size, found = masks.shape[1], []
    for i in range(len(masks)):
        at = xy[i][torch.cat([seen[:i], seen[i + 1 :]]).amin(0) > 0.5]
        column, row = ((at + 1) / 2 * size).long().clamp(0, size - 1).unbind(-1)
        drawn = masks.new_zeros(1, 1, size, size)
        drawn[0, 0, row, column] = 1
        drawn = -F.max_pool2d(-F.max_pool2d(drawn, 3, 1, 1), 3, 1, 1) > 0.5  # the holes between cells are closed
        mask = masks[None, i, ..., 0] > 0.5
        found.append((drawn[0] & mask).sum() / (drawn[0] | mask).sum().clamp(min=1))
    return torch.stack(found)


def agreeing(masks: Float[Tensor, "v h w 1"], cameras: Cameras, least: float = 0.7, keep: int = 6,
             sure: Sequence[int] = ()) -> list[int]:
    """Which views to trust: while more than ``keep`` are left and one agrees less than ``least``, the one that agrees least
    goes, but for those that are ``sure``. On 320 sets of 8 views of the objects that the bundled network was trained on, 0.7
    leaves out 96 % of the views that are another object's, and one view in 2 % of the sets without any."""
    left = list(range(len(masks)))
    while len(left) > keep:
        agrees = agreement(masks[left], cameras[left])
        agrees[[i for i, view in enumerate(left) if view in sure]] = 1.0
        if agrees.min() >= least:
            break
        left.pop(int(agrees.argmin()))
    return left


def blend(mesh: Mesh, normals: Float[Tensor, "v 3"], images: Float[Tensor, "n h w 3"], cameras: Cameras,
          best: int = 2, gap: float = 0.05) -> tuple[Float[Tensor, "v 3"], Bool[Tensor, "v"]]:
    """The colours that views have of a mesh's vertices, and which vertices any of them sees.

    Of the views that see a vertex (no nearer surface by more than ``gap`` world units) the ``best`` that look at it most
    squarely count, by cos⁴ of the angle to its normal.
    """
    xy, inside, depth = project(mesh.vertices, cameras)
    drawn = rasterize(mesh.vertices, mesh.faces, cameras, images.shape[1])
    forward = cameras.viewmats.to(depth)[:, None, None, 2]
    nearest = ((drawn.interpolate(mesh.vertices) * forward[..., :3]).sum(-1) + forward[..., 3]).masked_fill(drawn.face < 0, 1e3)
    nearest = -F.max_pool2d(-nearest[:, None], 3, 1, 1)  # at silhouettes a vertex may fall on a pixel that shows none
    behind = F.grid_sample(nearest, xy[:, None], mode="nearest", align_corners=False, padding_mode="border")[:, 0, 0]
    to_eye = F.normalize(cameras.positions.to(depth)[:, None] - mesh.vertices, dim=-1)
    cos = (to_eye * normals).sum(-1).clamp(min=0)
    weight = cos**4 * (inside & (depth < behind + gap) & (cos > 0.1))
    weight = weight * (weight >= weight.topk(min(best, len(weight)), 0).values[-1])
    rgb = look(images.movedim(-1, 1), xy)
    total = weight.sum(0)
    return (rgb * weight[:, None]).sum(0).T / total.clamp(min=1e-8)[:, None], total > 0


class Pyramid(nn.Module):
    """f_2D: features of ``out`` channels at full size, from three sizes that are brought together (FPN, arXiv 1612.03144)."""

    def __init__(self, channels: int, widths: tuple[int, int, int], out: int):
        super().__init__()
        a, b, c = widths
        step = lambda i, o, k=3, s=1: nn.Sequential(  # noqa: E731
            nn.Conv2d(i, o, k, s, k // 2, bias=False), nn.BatchNorm2d(o), nn.LeakyReLU(0.01))
        self.down = nn.ModuleList([nn.Sequential(step(channels, a), step(a, a)), nn.Sequential(step(a, b, 5, 2), step(b, b)),
                                   nn.Sequential(step(b, c, 5, 2), step(c, c))])
        self.side = nn.ModuleList(nn.Conv2d(n, c, 1) for n in widths)
        self.out = nn.Conv2d(c, out, 3, 1, 1)

    def forward(self, x: Float[Tensor, "v i h w"]) -> Float[Tensor, "v o h w"]:
        levels = []
        for down in self.down:
            levels.append(x := down(x))
        x = self.side[2](levels[2])
        for side, level in ((self.side[1], levels[1]), (self.side[0], levels[0])):
            x = side(level) + F.interpolate(x, level.shape[-2:], mode="bilinear", align_corners=False)
        return self.out(x)


class Regulariser(nn.Module):
    """f_3D: a U-Net over the volume with skips that are added (One-2-3-45's, dense)."""

    def __init__(self, channels: int, widths: tuple[int, ...], out: int):
        super().__init__()
        step = lambda i, o, s=1: nn.Sequential(  # noqa: E731
            nn.Conv3d(i, o, 3, s, 1, bias=False), nn.BatchNorm3d(o), nn.ReLU())
        self.first = step(channels, widths[0])
        self.down = nn.ModuleList(nn.Sequential(step(i, o, 2), step(o, o)) for i, o in zip(widths, widths[1:], strict=False))
        self.up = nn.ModuleList(step(o, i) for i, o in zip(widths, widths[1:], strict=False))
        self.last = nn.Conv3d(widths[0], out, 1)

    def forward(self, x: Float[Tensor, "b i n n n"]) -> Float[Tensor, "b o n n n"]:
        levels = [self.first(x)]
        for down in self.down:
            levels.append(down(levels[-1]))
        x = levels.pop()
        for up in reversed(self.up):
            x = up(F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)) + levels.pop()
        return self.last(x)


class Geometry(nn.Module):
    """f_g: (E(x), V(x)) -> the signed distance |x| - 0.5 + MLP in world units, which begins as a ball, and features.

    E(x) = (x, sin 2^k x, cos 2^k x) for k < ``octaves``; V(x) joins before the second and the third layer, as in the official
    network, whose sizes are 6 octaves and a width of 128.
    """

    def __init__(self, channels: int = 16, octaves: int = 6, width: int = 128):
        super().__init__()
        self.octaves, self.config = octaves, {"channels": channels, "octaves": octaves, "width": width}
        self.layers = nn.ModuleList([nn.Linear(3 + 6 * octaves, width), nn.Linear(width + channels, width),
                                     nn.Linear(width + channels, width)])
        nn.init.zeros_(self.layers[-1].weight[0])
        nn.init.zeros_(self.layers[-1].bias)

    def encode(self, points: Float[Tensor, "p 3"]) -> Float[Tensor, "p e"]:
        waves = torch.cat([2.0**k * points for k in range(self.octaves)], -1)
        return torch.cat([points, waves.sin(), waves.cos()], -1)

    def forward(self, points: Float[Tensor, "p 3"], v: Float[Tensor, "p c"]) -> tuple[Float[Tensor, "p"], Float[Tensor, "p f"]]:
        soft = lambda x: F.softplus(x, beta=100)  # noqa: E731
        h = soft(self.layers[0](self.encode(points)))
        h = soft(self.layers[1](torch.cat([h, v], -1)))
        out = self.layers[2](torch.cat([h, v], -1))
        return points.norm(dim=-1) - 0.5 + out[:, 0], out[:, 1:]


def sample(volume: Volume, points: Float[Tensor, "p 3"]) -> Float[Tensor, "p c"]:
    """V(x), trilinear between the centres of cells; beyond the outermost centres as there."""
    return F.grid_sample(volume[None], points.flip(-1)[None, None, None], align_corners=False,
                         padding_mode="border")[0, :, 0, 0].T


class Reconstruction(nn.Module):
    """The whole prior: views to a volume, and the network that reads it. The bundled one: ``Reconstruction.load()``."""

    def __init__(self, cells: int = 32, features: int = 8, channels: int = 16, widths: Sequence[int] = (8, 16, 32),
                 volume_widths: Sequence[int] = (16, 24, 32, 48), octaves: int = 4, width: int = 64):
        super().__init__()
        self.config = {"cells": cells, "features": features, "channels": channels, "widths": list(widths),
                       "volume_widths": list(volume_widths), "octaves": octaves, "width": width}
        self.pyramid = Pyramid(4, tuple(widths), features)
        self.regulariser = Regulariser(2 * (features + 4) + 1, tuple(volume_widths), channels)
        self.geometry = Geometry(channels, octaves, width)
        self.sharpness = nn.Parameter(torch.tensor(0.3))  # inverse standard deviation of NeuS: exp(10 *)

    @classmethod
    def load(cls, name: str | Path = "toybox") -> "Reconstruction":
        """The bundled network, or that of a folder which `dreamlab toybox train reconstruction` wrote, in float32 and ready.

        FileNotFoundError for what is missing or damaged, ``files.Refused`` (a ValueError) for weights of something else.
        """
        mend = "use 'toybox', the bundled one, or a folder of `dreamlab toybox train reconstruction`"
        folder = WEIGHTS if str(name) == "toybox" else Path(name)
        try:
            network = cls(**json.loads((folder / "config.json").read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise FileNotFoundError(f"no config of a reconstruction network in {folder} ({error}): {mend}") from error
        weights = load_weights(folder / "model.safetensors", mend, like=network.state_dict())
        network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
        return network.eval().requires_grad_(False)

    def costs(self, images: Float[Tensor, "v h w 3"], masks: Float[Tensor, "v h w 1"],
              cameras: Cameras) -> Float[Tensor, "c n n n"]:
        """Mean and variance, at every cell, of the views' features, colours and masks, and the hull."""
        x = torch.cat([images, masks], -1).movedim(-1, 1)
        n = self.config["cells"]
        cells = centres(n).view(-1, 3).to(x)
        mean, variance, _ = aggregate(torch.cat([self.pyramid(x * 2 - 1), x], 1), cameras, cells)
        return torch.cat([mean, variance, hull(masks, cameras, cells)[None]]).view(-1, n, n, n)

    def forward(self, sets: list[tuple[Tensor, Tensor, Cameras]]) -> Float[Tensor, "b c n n n"]:
        """The volume of each set of (images, masks, cameras), x first. ValueError for a set of fewer than two views, or of
        other pictures than square ones of one size."""
        for images, masks, cameras in sets:
            if len(images) < 2 or not len(images) == len(masks) == len(cameras):
                raise ValueError(f"a volume needs at least two views, each with a mask and a camera, got {len(images)}, "
                                 f"{len(masks)} and {len(cameras)}: give more, or as many")
            if images.shape[1] != images.shape[2] or masks.shape[1:3] != images.shape[1:3]:
                raise ValueError(f"pictures and masks must be square and of one size, got {tuple(images.shape[1:3])} and "
                                 f"{tuple(masks.shape[1:3])}: crop or resize them")
        costs = torch.stack([self.costs(*one) for one in sets])
        if len(costs) == 1:  # a batch of one takes torch's slow way through a 3D convolution
            return self.regulariser(costs.expand(2, *costs.shape[1:]))[:1]
        return self.regulariser(costs)

    def sdf(self, volume: Volume, points: Float[Tensor, "p 3"]) -> Float[Tensor, "p"]:
        """Signed distances in world units, negative inside."""
        return self.geometry(points, sample(volume, points))[0]


def border(images: Float[Tensor, "v h w 3"]) -> Float[Tensor, "v 3"]:
    """The colour of each picture's border, its median."""
    return torch.cat([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], 1).median(1).values


@torch.no_grad()
def cut_out(images: Float[Tensor, "v h w 3"],
            near: float = 0.12) -> tuple[Float[Tensor, "v h w 3"], Float[Tensor, "v h w 1"]]:
    """Pictures over a plain background, on white, and their masks. The rule: background is what is within ``near`` of the
    colour of the picture's :func:`border` and reaches that through such pixels, and any patch of 3 x 3 within half of that, as
    inside a handle."""
    away = (images - border(images)[:, None, None]).abs().amax(-1)[:, None]
    like = (away < near).float()
    reached = F.pad(torch.zeros_like(like)[:, :, 1:-1, 1:-1], (1, 1, 1, 1), value=1.0) * like
    while not torch.equal(grown := F.max_pool2d(reached, 3, 1, 1) * like, reached):
        reached = grown
    plain = F.max_pool2d(-F.max_pool2d(-(away < near / 2).float(), 3, 1, 1), 3, 1, 1)
    masks = 1 - torch.maximum(reached, plain * like)[:, 0, ..., None]
    return images * masks + (1 - masks), masks
