"""One-2-3-45's reconstruction network (arXiv 2306.16928), the 3D prior that GeoDream (arXiv 2311.17971) was made with.

    V = f_3D({variance, mean} of f_2D at each voxel),   (SDF(x), more) = f_g(E(x), V(x)),   colour(x) = sum_i f_t,i colour_i

Only its coarse level, "lod0", at its published size. It is sparse there and dense here: layers run over the whole grid, and
what they give counts only in voxels that two views or more have in their pictures. Parameters carry the published names, so
that a checkpoint is a state dict (:func:`read_checkpoint`). :class:`One2345` stands where
:class:`dreamlab.costvolume.Reconstruction` does and speaks of our world; :func:`to_theirs` says where theirs is.

Known differences: V is resized to the centres of our cells, where the official resizing moves it by up to 0.18 voxels; their
recentring leaves 0.013 along y, which is 0 here. Inferred from sources, and not checked, as the published weights were not at
hand: that they were made with torchsparse 1.4 and InPlaceABN of 1.0.4 or later, which the official code says to install, and so
the order within kernels (:class:`SparseConv`) and the counters of batches; and that the file holds what that code saves.
"""
import pickle
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from safetensors.torch import save_file
from torch import Tensor, nn

from dreamlab.cameras import Cameras, orbit
from dreamlab.costvolume import Volume, centres, sample
from dreamlab.files import Refused, check_weights, load_weights, refuse, writing

FOV_DEG = 49.13  # 280 pixels of focal length at 256: the views that the network was trained on
MEND = "make it of One-2-3-45's lod0 checkpoint, ckpt_215000.pth, with dreamlab.one2345.convert_pickle"
TRAINING = ("optimizer", "iter_step", "val_step")  # what else a published checkpoint holds


def frame(first: Cameras) -> Float[Tensor, "3 3"]:
    """The matrix of :func:`to_theirs`."""
    return first.viewmats[0, :3, :3] * (1.2 / 1.34 / first.radius[0])


def to_theirs(points: Float[Tensor, "*p 3"], first: Cameras) -> Float[Tensor, "*p 3"]:
    """Places of our world (z up) in One-2-3-45's: along the axes of the first camera (x right, y down, z forward), around the
    point it looks around, and in units of which it stands 1.2 / 1.34 away. Their views have ``FOV_DEG``; ours should."""
    return points @ frame(first).to(points).T


def look(pictures: Float[Tensor, "v c h w"], cameras: Cameras,
         points: Float[Tensor, "p 3"]) -> tuple[Float[Tensor, "v c p"], Bool[Tensor, "v p"]]:
    """What pictures have at the places of points of our world, 0 beyond them, and which have a point inside. As the network was
    trained: half a pixel further right and down than ours, and mirrored where a point lies behind a camera, if not inside."""
    cameras, size = cameras.to(points.device), pictures.shape[-1]
    matrices = cameras.Ks(size) @ cameras.viewmats[:, :3]
    x, y, z = (points @ matrices[:, :, :3].mT + matrices[:, None, :, 3]).unbind(-1)
    z = z.where(z < 0, z.clamp(min=1e-6))
    places = torch.stack([x / z, y / z], -1) * 2 / (size - 1) - 1
    return F.grid_sample(pictures, places[:, None], align_corners=True)[:, :, 0], (places.abs() <= 1).all(-1) & (z > 0)


def agreement(features: Float[Tensor, "v c h w"], cameras: Cameras,
              points: Float[Tensor, "p 3"]) -> tuple[Float[Tensor, "c2 p"], Bool[Tensor, "p"]]:
    """E[f²] - E[f]² and E[f] over the views that have a point inside, and whether they are two or more; 0 where not. As the
    network was trained, views that do not have it inside add what little they show, and are not counted."""
    seen, inside = look(features, cameras, points)
    count = inside.sum(0)
    mean, square = seen.sum(0) / count.clamp(min=1), seen.square().sum(0) / count.clamp(min=1)
    return torch.cat([square - mean.square(), mean]) * (count >= 2), count >= 2


class Norm(nn.Module):
    """Batch normalisation and what follows: leaky ReLU by ``leak`` and |weight| + 1e-5 in InPlaceABN, ReLU in torchsparse.

    The statistics are those of what it sees, as the official code never leaves its training mode; with ``running`` the
    averages of the training, which it stores and never reads.
    """

    def __init__(self, channels: int, leak: float = 0.0):
        super().__init__()
        self.leak, self.running = leak, False
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Float[Tensor, "b c *n"]) -> Float[Tensor, "b c *n"]:
        weight = self.weight.abs() + 1e-5 if self.leak else self.weight
        known = (self.running_mean, self.running_var) if self.running else (None, None)
        return F.leaky_relu(F.batch_norm(x, *known, weight, self.bias, training=not self.running, eps=1e-5), self.leak)


class ConvNorm(nn.Module):
    def __init__(self, i: int, o: int, size: int = 3, stride: int = 1):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(i, o, size, stride, size // 2, bias=False), Norm(o, 0.01)

    def forward(self, x: Float[Tensor, "v i h w"]) -> Float[Tensor, "v o h2 w2"]:
        return self.bn(self.conv(x))


class FeatureNet(nn.Module):
    """f_2D: a feature pyramid (FPN, arXiv 1612.03144) of 32, 16 and 8 channels, all brought to full size: 56."""

    def __init__(self):
        super().__init__()
        self.conv0 = nn.Sequential(ConvNorm(3, 8), ConvNorm(8, 8))
        self.conv1 = nn.Sequential(ConvNorm(8, 16, 5, 2), ConvNorm(16, 16), ConvNorm(16, 16))
        self.conv2 = nn.Sequential(ConvNorm(16, 32, 5, 2), ConvNorm(32, 32), ConvNorm(32, 32))
        self.toplayer, self.lat1, self.lat0 = nn.Conv2d(32, 32, 1), nn.Conv2d(16, 32, 1), nn.Conv2d(8, 32, 1)
        self.smooth1, self.smooth0 = nn.Conv2d(32, 16, 3, padding=1), nn.Conv2d(32, 8, 3, padding=1)

    def forward(self, x: Float[Tensor, "v 3 h w"]) -> Float[Tensor, "v 56 h w"]:
        grow = partial(F.interpolate, mode="bilinear", align_corners=True)
        full = self.conv0(x)
        half = self.conv1(full)
        coarse = self.toplayer(self.conv2(half))
        middle = grow(coarse, half.shape[-2:]) + self.lat1(half)
        fine = grow(middle, full.shape[-2:]) + self.lat0(full)
        return torch.cat([grow(coarse, x.shape[-2:]), grow(self.smooth1(middle), x.shape[-2:]), self.smooth0(fine)], 1)


class SparseConv(nn.Module):
    """torchsparse 1.4's 3 x 3 x 3 convolution, dense. Its kernel is (27, in, out): row (dx + 1) + 3 (dy + 1) + 9 (dz + 1), x
    fastest, multiplies what stands at (dx, dy, dz) from the output's voxel. Transposed, the same pairs backwards."""

    def __init__(self, i: int, o: int, stride: int = 1, transposed: bool = False):
        super().__init__()
        bound = (27 * (o if transposed else i)) ** -0.5
        self.kernel = nn.Parameter(torch.empty(27, i, o).uniform_(-bound, bound))
        self.stride, self.transposed = stride, transposed

    def forward(self, x: Float[Tensor, "1 i n n n"]) -> Float[Tensor, "1 o m m m"]:
        zyxio = self.kernel.view(3, 3, 3, *self.kernel.shape[1:])
        if self.transposed:
            return F.conv_transpose3d(x, zyxio.permute(3, 4, 2, 1, 0), stride=self.stride, padding=1)
        return F.conv3d(x, zyxio.permute(4, 3, 2, 1, 0), stride=self.stride, padding=1)


class Block(nn.Module):
    """Convolution, normalisation over the kept voxels, ReLU; 0 elsewhere."""

    def __init__(self, i: int, o: int, stride: int = 1, transposed: bool = False):
        super().__init__()
        self.net = nn.ModuleList([SparseConv(i, o, stride, transposed), Norm(o)])

    def forward(self, x: Float[Tensor, "1 i n n n"], kept: Bool[Tensor, "m m m"]) -> Float[Tensor, "1 o m m m"]:
        y = self.net[0](x)[0].movedim(0, -1)
        return torch.zeros_like(y).masked_scatter(kept[..., None], self.net[1](y[kept])).movedim(-1, 0)[None]


def halve(kept: Bool[Tensor, "n n n"]) -> Bool[Tensor, "m m m"]:
    """The voxels twice as far apart that torchsparse 1.4 keeps: those with a kept one within a step, and not before the first
    kept one along any axis."""
    far = F.max_pool3d(kept[None].float(), 3, 2, 1)[0] > 0
    for axis in range(3):
        first = int(kept.movedim(axis, 0).flatten(1).any(1).int().argmax())
        far.narrow(axis, 0, (first + 1) // 2).fill_(False)
    return far


class SparseCostRegNet(nn.Module):
    """f_3D: a U-Net over the kept voxels, with skips that are added."""

    def __init__(self):
        super().__init__()
        self.conv0 = Block(32, 16)
        self.conv1, self.conv2 = Block(16, 16, 2), Block(16, 16)
        self.conv3, self.conv4 = Block(16, 32, 2), Block(32, 32)
        self.conv5, self.conv6 = Block(32, 64, 2), Block(64, 64)
        self.conv7, self.conv9, self.conv11 = Block(64, 32, 2, True), Block(32, 16, 2, True), Block(16, 16, 2, True)

    def forward(self, x: Float[Tensor, "1 32 n n n"], kept: Bool[Tensor, "n n n"]) -> Float[Tensor, "1 16 n n n"]:
        n = len(kept)
        more = (0, -n % 8 + 1) * 3  # a coarse voxel may lie one beyond the last
        x, masks = F.pad(x, more), [F.pad(kept, more)]
        for _ in range(3):
            masks.append(halve(masks[-1]))
        full = self.conv0(x, masks[0])
        half = self.conv2(self.conv1(full, masks[1]), masks[1])
        quarter = self.conv4(self.conv3(half, masks[2]), masks[2])
        x = self.conv6(self.conv5(quarter, masks[3]), masks[3])
        x = quarter + self.conv7(x, masks[2])
        x = half + self.conv9(x, masks[1])
        return (full + self.conv11(x, masks[0]))[..., :n, :n, :n]


class WeightNormed(nn.Module):
    """y = g v / |v| x + b, row by row (arXiv 1602.07868)."""

    def __init__(self, i: int, o: int):
        super().__init__()
        self.in_features, self.out_features = i, o
        line = nn.Linear(i, o)
        self.weight_v, self.bias = line.weight, line.bias
        self.weight_g = nn.Parameter(line.weight.detach().norm(dim=1, keepdim=True))

    def forward(self, x: Float[Tensor, "p i"]) -> Float[Tensor, "p o"]:
        return F.linear(x, self.weight_g * F.normalize(self.weight_v, dim=1), self.bias)


class LatentSDFLayer(nn.Module):
    """f_g in their world: (E(x), V(x)) -> the signed distance and 127 features. E(x) = (x, sin x, cos x, ..., cos 32x);
    V(x) joins before the second and the third layer; softplus with beta = 100 between them."""

    def __init__(self):
        super().__init__()
        self.lin0, self.lin1, self.lin2 = WeightNormed(39, 128), WeightNormed(128 + 16, 128), WeightNormed(128 + 16, 128)

    def forward(self, points: Float[Tensor, "p 3"], v: Float[Tensor, "p 16"]) -> Float[Tensor, "p 128"]:
        h = torch.cat([points, *(wave(2.0**k * points) for k in range(6) for wave in (torch.sin, torch.cos))], -1)
        for line in (self.lin0, self.lin1):
            h = torch.cat([F.softplus(line(h), beta=100), v], -1)
        return self.lin2(h)


class WorldSDF(nn.Module):
    """f_g in our world, called as :class:`dreamlab.costvolume.Geometry` is; new where no ``layer`` is given."""

    config = {"channels": 16, "published": "one-2-3-45"}

    def __init__(self, layer: LatentSDFLayer | None = None, frame: Float[Tensor, "3 3"] | None = None):
        super().__init__()
        self.layer = LatentSDFLayer() if layer is None else layer
        self.register_buffer("frame", torch.eye(3) if frame is None else frame)

    def forward(self, points: Float[Tensor, "p 3"],
                v: Float[Tensor, "p 16"]) -> tuple[Float[Tensor, "p"], Float[Tensor, "p 127"]]:
        out = self.layer(points @ self.frame.T, v)
        return out[:, 0] / self.frame[0].norm(), out[:, 1:]


def mlp(*widths: int, last: type[nn.Module] = nn.ELU) -> nn.Sequential:
    steps = [part for i, o in pairwise(widths) for part in (nn.Linear(i, o), nn.ELU())]
    return nn.Sequential(*steps[:-1], last())


class Blending(nn.Module):
    """f_t: a place's colour as a weighted mean of those that views have of it (IBRNet, arXiv 2102.13090)."""

    def __init__(self):
        super().__init__()
        self.s = nn.Parameter(torch.tensor(0.2))
        self.ray_dir_fc, self.base_fc = mlp(4, 16, 59), mlp(3 * 59 + 16, 64, 32)
        self.vis_fc, self.vis_fc2 = mlp(32, 32, 33), mlp(32, 32, 1, last=nn.Sigmoid)
        self.rgb_fc = mlp(37, 16, 8, 1, last=nn.Identity)

    def forward(self, v: Float[Tensor, "p 16"], seen: Float[Tensor, "n p 59"], towards: Float[Tensor, "n p 4"],
                inside: Bool[Tensor, "n p"]) -> Float[Tensor, "p 3"]:
        """``seen``: colours, then features; ``towards``: the direction asked for less that to the view, made of length 1, and
        the cosine between them. Views that do not have a place ``inside`` have no weight, if others do."""
        m = inside[..., None].to(seen)
        f = seen + self.ray_dir_fc(towards)
        w = (self.s.abs() * (towards[..., 3:] - 1)).exp()
        w = (w - w.amin(0)) * m
        w = w / (w.sum(0) + 1e-8)
        mean = (w * f).sum(0)
        variance = (w * (f - mean).square()).sum(0)
        x = self.base_fc(torch.cat([torch.cat([v, mean, variance], -1).expand(len(f), -1, -1), f], -1))
        more, visible = self.vis_fc(x * w).split([32, 1], -1)
        x = x + more
        visible = self.vis_fc2(x * visible.sigmoid() * m) * m
        score = self.rgb_fc(torch.cat([x, visible, towards], -1)).masked_fill(m == 0, -1e9)
        return (seen[..., :3] * score.softmax(0)).sum(0)


class One2345(nn.Module):
    """Views to a volume, and the networks that read it, in our world. ``cells`` voxels a side fill their cube; V is read at the
    centres of ``size`` cells a side, which fill ours. ``first``: the camera that gives their axes, by default at our front; the
    views should stand as far away as it and have its field of view. ``running``: see :class:`Norm`."""

    def __init__(self, cells: int = 96, size: int = 150, first: Cameras | None = None, running: bool = False):
        super().__init__()
        self.cells, self.config = cells, {"cells": size, "channels": 16}
        self.register_buffer("frame", frame(first or orbit(0.0, 0.0, fov_deg=FOV_DEG)), persistent=False)
        self.pyramid_feature_network = FeatureNet()
        self.sdf_network_lod0 = nn.ModuleDict({"compress_layer": ConvNorm(56, 16), "sparse_costreg_net": SparseCostRegNet(),
                                               "sdf_layer": LatentSDFLayer()})
        self.rendering_network_lod0 = Blending()
        self.variance_network_lod0 = nn.ParameterDict({"variance": torch.tensor(0.2)})
        for norm in self.modules():
            if isinstance(norm, Norm):
                norm.running = running

    @property
    def geometry(self) -> WorldSDF:
        """f_g: places and V there -> signed distances in world units, and features."""
        return WorldSDF(self.sdf_network_lod0["sdf_layer"], self.frame)

    @property
    def sharpness(self) -> float:
        """NeuS's inverse standard deviation, exp(10 variance) in their units, in 1 / world unit."""
        return float((10 * self.variance_network_lod0["variance"]).exp() * self.frame[0].norm())

    def costs(self, images: Float[Tensor, "v h w 3"],
              cameras: Cameras) -> tuple[Float[Tensor, "32 n n n"], Bool[Tensor, "n n n"]]:
        """Variance and mean of the views' features at the voxels of their cube, of which the outermost lie on its faces, and
        which of them are kept. ValueError where none is."""
        features = self.sdf_network_lod0["compress_layer"](self.pyramid_feature_network(images.movedim(-1, 1)))
        n, axis = self.cells, torch.linspace(-1, 1, self.cells).to(features)
        places = torch.cartesian_prod(axis, axis, axis) @ self.frame.inverse().T
        costs, kept = (torch.cat(parts, -1) for parts in zip(*(agreement(features, cameras, part)
                                                               for part in places.split(1 << 16)), strict=True))
        if not kept.any():
            raise ValueError("no voxel lies in the pictures of two views: turn the cameras to one object")
        return costs.view(-1, n, n, n), kept.view(n, n, n)

    def forward(self, sets: list[tuple[Tensor, Tensor, Cameras]]) -> Float[Tensor, "b c n n n"]:
        """The volume of each set of (images on white, masks, cameras), x first; masks are not read. ValueError for a set of
        fewer than two views, or of other pictures than square ones."""
        places = centres(self.config["cells"]).view(1, 1, 1, -1, 3).to(self.frame) @ self.frame.T
        volumes = []
        for images, _, cameras in sets:
            if len(images) < 2 or len(images) != len(cameras) or images.shape[1] != images.shape[2]:
                raise ValueError(f"a volume needs at least two square views, each with a camera, got {tuple(images.shape)} and "
                                 f"{len(cameras)} cameras: give more, crop them, or give as many")
            costs, kept = self.costs(images, cameras)
            volume = self.sdf_network_lod0["sparse_costreg_net"](costs[None], kept)
            volumes.append(F.grid_sample(volume, places.flip(-1), align_corners=True).view(16, *[self.config["cells"]] * 3))
        return torch.stack(volumes)

    def sdf(self, volume: Volume, points: Float[Tensor, "p 3"]) -> Float[Tensor, "p"]:
        """Signed distances in world units, negative inside."""
        return self.geometry(points, sample(volume, points))[0]

    def colours(self, volume: Volume, points: Float[Tensor, "p 3"], normals: Float[Tensor, "p 3"],
                images: Float[Tensor, "v h w 3"], cameras: Cameras) -> Float[Tensor, "p 3"]:
        """f_t's colours of places on a surface, as looked at along their ``normals``, in [0, 1]. GeoDream does not use them."""
        pictures = images.movedim(-1, 1)
        seen, inside = look(torch.cat([pictures, self.pyramid_feature_network(pictures)], 1), cameras, points)
        to_eye = F.normalize(cameras.positions.to(points)[:, None] - points, dim=-1)
        apart = F.normalize((normals - to_eye) @ self.frame.T, dim=-1, eps=1e-6)
        towards = torch.cat([apart, (normals * to_eye).sum(-1, keepdim=True)], -1)
        return self.rendering_network_lod0(sample(volume, points), seen.movedim(1, -1), towards, inside)


def read_checkpoint(file: Path | str, **options) -> One2345:
    """The network with the weights of a safetensors file, in float32 and ready; ``options`` are :class:`One2345`'s. Keys are
    the published ones, as ``sdf_network_lod0.sdf_layer.lin0.weight_g``; counters of batches may be there and are not read.

    FileNotFoundError for a missing or damaged file, ``files.Refused`` (a ValueError) that names keys which are missing,
    unexpected, of another shape or not finite.
    """
    network = One2345(**options)
    like = network.state_dict()
    counters = {key.replace("running_mean", "num_batches_tracked") for key in like if key.endswith("running_mean")}
    tensors = {key: x.float() for key, x in load_weights(file, MEND).items() if key not in counters}
    check_weights(file, tensors, like, MEND)
    network.load_state_dict(tensors)
    return network.eval().requires_grad_(False)


def convert_pickle(src: Path | str, dst: Path | str) -> None:
    """The networks of a published checkpoint, a pickle, as the safetensors file of :func:`read_checkpoint`. The pickle is read
    with ``weights_only=True``, which takes tensors and runs no code; what is of the training (``TRAINING``) is left out.

    FileNotFoundError for a missing or damaged file, ``files.Refused`` for one that holds code or something else than networks.
    """
    mend = "get One-2-3-45's lod0 checkpoint, ckpt_215000.pth, anew"
    try:
        stored = torch.load(src, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise Refused(f"{src} holds more than tensors, or is no pickle, and was not read: {mend}") from error
    except (OSError, EOFError, RuntimeError) as error:
        why = "it is damaged" if Path(src).exists() else "there is no such file"
        raise FileNotFoundError(f"no checkpoint in {src}, {why}: {mend}") from error
    networks = {name: of for name, of in stored.items() if name not in TRAINING} if isinstance(stored, dict) else {"": stored}
    refuse(src, mend, unexpected=[name or f"a {type(of).__name__}" for name, of in networks.items()
                                  if not isinstance(of, dict) or not all(isinstance(x, Tensor) for x in of.values())])
    with writing(dst) as part:
        save_file({f"{name}.{key}": x.clone().contiguous() for name, of in networks.items() for key, x in of.items()}, part)
