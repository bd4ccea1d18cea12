"""One-2-3-45's network: its published sizes and keys, sparse convolution as torchsparse does it, frames, blending, refusals."""
import math
import os
from itertools import product

import pytest
import torch
from safetensors.torch import load_file, save_file

from dreamlab import scenes
from dreamlab.cameras import orbit
from dreamlab.costvolume import centres, sample
from dreamlab.files import Refused
from dreamlab.noise import seeded
from dreamlab.one2345 import (
    FOV_DEG,
    Blending,
    FeatureNet,
    LatentSDFLayer,
    Norm,
    One2345,
    SparseConv,
    SparseCostRegNet,
    agreement,
    convert_pickle,
    frame,
    halve,
    look,
    read_checkpoint,
    to_theirs,
)
from dreamlab.scenes.nerf import HashGrid
from dreamlab.scenes.neus import NeuS, network_of

OFFSETS = [(x, y, z) for z in (-1, 0, 1) for y in (-1, 0, 1) for x in (-1, 0, 1)]  # the order of torchsparse 1.4


def published() -> dict[str, tuple[int, ...]]:
    """The keys of a published checkpoint and their shapes, spelled out from the official code's modules."""
    shapes = {}

    def norm(name, n):
        shapes.update({f"{name}.{k}": (n,) for k in ("weight", "bias", "running_mean", "running_var")})

    def line(name, *weight):
        shapes.update({f"{name}.weight": weight, f"{name}.bias": weight[:1]})

    convs = {"conv0": [(3, 8, 3), (8, 8, 3)], "conv1": [(8, 16, 5), (16, 16, 3), (16, 16, 3)],
             "conv2": [(16, 32, 5), (32, 32, 3), (32, 32, 3)]}
    named = {f"pyramid_feature_network.{c}.{i}": s for c, steps in convs.items() for i, s in enumerate(steps)}
    for name, (i, o, size) in (named | {"sdf_network_lod0.compress_layer": (56, 16, 3)}).items():
        shapes[f"{name}.conv.weight"] = (o, i, size, size)
        norm(f"{name}.bn", o)
    for name, *weight in (("toplayer", 32, 32, 1, 1), ("lat1", 32, 16, 1, 1), ("lat0", 32, 8, 1, 1), ("smooth1", 16, 32, 3, 3),
                          ("smooth0", 8, 32, 3, 3)):
        line(f"pyramid_feature_network.{name}", *weight)
    for k, i, o in ((0, 32, 16), (1, 16, 16), (2, 16, 16), (3, 16, 32), (4, 32, 32), (5, 32, 64), (6, 64, 64), (7, 64, 32),
                    (9, 32, 16), (11, 16, 16)):
        shapes[f"sdf_network_lod0.sparse_costreg_net.conv{k}.net.0.kernel"] = (27, i, o)
        norm(f"sdf_network_lod0.sparse_costreg_net.conv{k}.net.1", o)
    for k, i in enumerate((39, 144, 144)):
        name = f"sdf_network_lod0.sdf_layer.lin{k}"
        shapes |= {f"{name}.weight_g": (128, 1), f"{name}.weight_v": (128, i), f"{name}.bias": (128,)}
    for name, i, o in (("ray_dir_fc.0", 4, 16), ("ray_dir_fc.2", 16, 59), ("base_fc.0", 193, 64), ("base_fc.2", 64, 32),
                       ("vis_fc.0", 32, 32), ("vis_fc.2", 32, 33), ("vis_fc2.0", 32, 32), ("vis_fc2.2", 32, 1),
                       ("rgb_fc.0", 37, 16), ("rgb_fc.2", 16, 8), ("rgb_fc.4", 8, 1)):
        line(f"rendering_network_lod0.{name}", o, i)
    return shapes | {"rendering_network_lod0.s": (), "variance_network_lod0.variance": ()}


def weights() -> dict[str, torch.Tensor]:
    """Random ones of the published shapes."""
    made = {key: torch.randn(shape, generator=seeded(0)) * 0.3 for key, shape in published().items()}
    return {key: x.abs() + 0.5 if key.endswith("running_var") else x for key, x in made.items()}


def views(n: int = 4, size: int = 24, **more):
    cameras = orbit(torch.arange(n) * (360 / n), 10.0, fov_deg=FOV_DEG, **more)
    return torch.rand(n, size, size, 3, generator=seeded(1)), torch.ones(n, size, size, 1), cameras


def small(**more) -> One2345:
    torch.manual_seed(0)
    return One2345(**{"cells": 16, "size": 8} | more).requires_grad_(False)


def test_published_sizes():
    """49k, 312k and 43k weights; 56 channels at full size; 39 -> 128, 144 -> 128, 144 -> 128; a volume of 150 cells a side."""
    network = One2345()
    assert {key: tuple(x.shape) for key, x in network.state_dict().items()} == published()
    counts = [sum(p.numel() for p in part.parameters()) for part in (
        network.pyramid_feature_network, network.sdf_network_lod0["sparse_costreg_net"], network.geometry.layer)]
    assert counts == [48_976, 311_648, 42_624]
    assert network.cells == 96 and network.config == {"cells": 150, "channels": 16}
    with torch.device("meta"):
        assert FeatureNet()(torch.rand(14, 3, 256, 256)).shape == (14, 56, 256, 256)
        assert LatentSDFLayer()(torch.rand(7, 3), torch.rand(7, 16)).shape == (7, 128)
        seen, towards, inside = torch.rand(14, 7, 59), torch.rand(14, 7, 4), torch.ones(14, 7).bool()
        assert Blending()(torch.rand(7, 16), seen, towards, inside).shape == (7, 3)
        assert SparseConv(64, 32, 2, True)(torch.rand(1, 64, 13, 13, 13)).shape == (1, 32, 25, 25, 25)


@torch.no_grad()
def sparse(features: dict, kernel, outputs, stride: int = 1, transposed: bool = False) -> dict:
    """torchsparse's convolution between voxels, by hand: an output meets its inputs ``stride`` fine steps apart, no others."""
    made = {}
    for place in outputs:
        total = torch.zeros(kernel.shape[2])
        for row, offset in zip(kernel, OFFSETS, strict=True):
            other = tuple(p - d * stride if transposed else p + d * stride for p, d in zip(place, offset, strict=True))
            if other in features:
                total = total + features[other] @ row
        made[place] = total
    return made


def coarser(places: list, step: int) -> list:
    """torchsparse 1.4's places ``2 step`` apart: within one step of a kept one, from the first kept one along each axis on."""
    first = [min(p[axis] for p in places) for axis in range(3)]
    near = {tuple(p + d * step for p, d in zip(place, offset, strict=True)) for place in places for offset in OFFSETS}
    return sorted(p for p in near if all(x % (2 * step) == 0 and x >= lo for x, lo in zip(p, first, strict=True)))


def some(n: int, share: float, channels: int, first: int = 0):
    """Kept voxels as a mask and a list, and their features, dense and sparse."""
    kept = torch.rand(n, n, n, generator=seeded(n)) < share
    kept[:first] = False
    x = torch.randn(1, channels, n, n, n, generator=seeded(n + 1)) * kept
    places = [tuple(p) for p in kept.nonzero().tolist()]
    return kept, places, x, {p: x[0, :, *p] for p in places}


@pytest.mark.parametrize(("stride", "transposed"), [(1, False), (2, False), (2, True)])
def test_a_dense_convolution_is_the_sparse_one(stride, transposed):
    """At kept voxels the same sums, in the order of torchsparse's rows, whatever the stride and the direction."""
    kept, places, x, features = some(5, 0.2, 3)
    layer = SparseConv(3, 4, stride, transposed)
    if transposed:  # from voxels two steps apart, at twice their index, to the fine ones between
        features = {tuple(2 * i for i in p): f for p, f in features.items()}
        outputs = list(product(range(9), repeat=3))
        index = {p: p for p in outputs}
    else:
        outputs = coarser(places, 1) if stride == 2 else places
        outputs = [p for p in outputs if max(p) < 5]
        index = {p: tuple(i // stride for i in p) for p in outputs}
    by_hand, dense = sparse(features, layer.kernel, outputs, 1, transposed), layer(x)
    assert len(outputs) > 5
    for p in outputs:
        assert torch.allclose(dense[0, :, *index[p]], by_hand[p], atol=1e-5)


@pytest.mark.parametrize(("n", "first"), [(8, 0), (10, 3)])
def test_the_regulariser_is_the_sparse_network(n, first):
    """All ten layers, with statistics over kept voxels only, voxels beyond the last one and none before the first."""
    kept, places, x, features = some(n, 0.15, 32, first)
    net = SparseCostRegNet().requires_grad_(False)
    levels = [places]
    for k in range(3):
        levels.append(coarser(levels[-1], 2**k))
    assert max(max(p) for p in levels[1]) >= n or n % 2  # one lies beyond the last

    def block(layer, features, level, step, transposed=False):
        made = sparse(features, layer.net[0].kernel, levels[level], step, transposed)
        y = torch.stack(list(made.values()))
        y = (y - y.mean(0)) / (y.var(0, unbiased=False) + 1e-5).sqrt()
        return dict(zip(made, y.relu(), strict=True))

    def add(a, b):
        return {p: a[p] + b[p] for p in a}

    full = block(net.conv0, features, 0, 1)
    half = block(net.conv2, block(net.conv1, full, 1, 1), 1, 2)
    quarter = block(net.conv4, block(net.conv3, half, 2, 2), 2, 4)
    y = block(net.conv6, block(net.conv5, quarter, 3, 4), 3, 8)
    y = add(quarter, block(net.conv7, y, 2, 4, True))
    y = add(half, block(net.conv9, y, 1, 2, True))
    y = add(full, block(net.conv11, y, 0, 1, True))
    dense = net(x, kept)
    assert dense.shape == (1, 16, n, n, n) and not dense[0, :, ~kept].any()
    for p in places:
        assert torch.allclose(dense[0, :, *p], y[p], atol=1e-4)


def test_coarser_voxels_do_not_begin_before_the_kept_ones():
    kept = torch.zeros(9, 9, 9).bool()
    kept[3:5, 4:6, 7:9] = True
    assert [tuple(2 * i for i in p) for p in halve(kept).nonzero().tolist()] == coarser(
        [tuple(p) for p in kept.nonzero().tolist()], 1)


def test_statistics_are_those_at_hand():
    """InPlaceABN's |weight| and leak; torchsparse's plain ones. ``running`` reads the stored averages in their place."""
    x = torch.randn(40, 2, 3, generator=seeded(0)) * 3 + 1
    for leak in (0.0, 0.01):
        norm = Norm(2, leak)
        norm.weight.data, norm.bias.data = torch.tensor([-0.7, 0.4]), torch.tensor([0.1, -0.2])
        mean, std = x.mean((0, 2), keepdim=True), (x.var((0, 2), keepdim=True, unbiased=False) + 1e-5).sqrt()
        weight = (norm.weight.abs() + 1e-5 if leak else norm.weight)[:, None]
        line = weight * (x - mean) / std + norm.bias[:, None]
        assert torch.allclose(norm(x), torch.where(line > 0, line, leak * line), atol=1e-5)
        assert torch.equal(norm.eval()(x), norm.train()(x))
        norm.running = True
        line = weight * x / (1 + 1e-5) ** 0.5 + norm.bias[:, None]
        assert torch.allclose(norm(x), torch.where(line > 0, line, leak * line), atol=1e-5)
    assert not norm.running_mean.any() and (norm.running_var == 1).all()


def test_variance_is_0_where_views_agree():
    """Features that are one everywhere: their mean is that, wherever two views see, and 0 elsewhere. Disagreement is seen."""
    points, cameras = torch.rand(80, 3, generator=seeded(0)) * 2 - 1, orbit([0.0, 80.0, 200.0], [0.0, 20.0, -10.0], 8.0, 12.0)
    one = torch.randn(6, generator=seeded(1))
    costs, kept = agreement(one.view(1, 6, 1, 1).expand(3, 6, 20, 20), cameras, points)
    assert 10 < kept.sum() < 80 and not costs[:, ~kept].any()
    seen = look(torch.ones(3, 1, 20, 20), cameras, points)
    whole = kept & ((seen[0][:, 0] == 1) | (seen[0][:, 0] == 0)).all(0)  # none of the three has it on its rim
    assert whole.sum() > 10 and costs[:6, whole].abs().max() < 1e-6
    assert torch.allclose(costs[6:, whole], one[:, None].expand(-1, int(whole.sum())), atol=1e-6)
    pictures = torch.rand(3, 6, 20, 20, generator=seeded(2))
    inside = seen[1].all(0)
    shown = look(pictures, cameras, points)[0][..., inside]
    costs, _ = agreement(pictures, cameras, points)
    assert torch.allclose(costs[:6, inside], shown.var(0, unbiased=False), atol=1e-5) and costs[:6, inside].max() > 0.01
    assert torch.allclose(costs[6:, inside], shown.mean(0), atol=1e-5)


def test_pictures_are_read_as_in_training():
    """Pixel (v, u) at K's (u, v), where ours has it at (u + 1/2, v + 1/2); 0 outside; behind a camera is never inside."""
    cameras, pictures = orbit([20.0, 130.0], [10.0, -5.0], 3.0, FOV_DEG), torch.rand(2, 2, 16, 16, generator=seeded(0))
    for i in range(2):
        K, view, depth = cameras.Ks(16)[i], cameras.viewmats[i], 2.7
        v, u = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
        local = (torch.stack([u, v, torch.ones_like(u)], -1).view(-1, 3) * depth) @ K.inverse().T
        points = (local - view[:3, 3]) @ view[:3, :3]
        shown, inside = look(pictures, cameras, points)
        assert torch.allclose(shown[i], pictures[i].flatten(1), atol=1e-3) and inside[i].view(16, 16)[1:-1, 1:-1].all()
        behind = 2 * cameras.positions[i] - points
        shown, inside = look(pictures, cameras, behind)
        assert not inside[i].any() and torch.allclose(shown[i], pictures[i].flatten(1), atol=1e-3)
        assert not look(pictures, cameras, points + 3 * view[0, :3])[0][i].any()


def test_the_first_camera_gives_the_axes():
    """It stands 1.2 / 1.34 behind the centre of their world; pixels are those of the official intrinsics, 280 and 128."""
    first, p = orbit(30.0, 20.0, 3.0, FOV_DEG), torch.rand(50, 3, generator=seeded(0)) - 0.5
    assert torch.allclose(to_theirs(first.positions, first), torch.tensor([[0, 0, -1.2 / 1.34]]), atol=1e-6)
    there = to_theirs(p, first) * 1.34 + torch.tensor([0, 0, 1.2])
    local = (first.viewmats[0, :3, :3] @ p.T).T + first.viewmats[0, :3, 3]
    pixel = (first.Ks(256)[0] @ local.T).T
    assert torch.allclose(280 * there[:, :2] / there[:, 2:] + 128, pixel[:, :2] / pixel[:, 2:], atol=1e-2)
    front = orbit(0.0, 0.0)
    unit = front.radius * 1.34 / 1.2
    ahead, right, up = ([1.0, 0, 0], [0.0, 0, -1]), ([0.0, 1, 0], [1.0, 0, 0]), ([0.0, 0, 1], [0.0, -1, 0])
    for ours, theirs in (ahead, right, up):
        assert torch.allclose(to_theirs(torch.tensor([ours]) * unit, front), torch.tensor([theirs]), atol=1e-6)
    assert torch.linalg.det(frame(first)) > 0


def test_the_surface_turns_with_all_cameras():
    """What is seen does not depend on which azimuth is called 0, if the first camera turns along; nor on the unit of length."""
    network, (images, masks, cameras) = small(), views()
    volume = network([(images, masks, cameras)])
    assert volume.shape == (1, 16, 8, 8, 8)
    p = torch.rand(60, 3, generator=seeded(3)) * 1.6 - 0.8
    turned = small(first=orbit(90.0, 0.0, fov_deg=FOV_DEG))
    other = turned([(images, masks, orbit(cameras.azimuth_deg + 90, 10.0, fov_deg=FOV_DEG))])
    q = torch.stack([-p[:, 1], p[:, 0], p[:, 2]], 1)
    assert torch.allclose(turned.sdf(other[0], q), network.sdf(volume[0], p), atol=1e-3)
    far, v = small(first=orbit(0.0, 0.0, 4.8, FOV_DEG)), sample(volume[0], p)
    (a, more), (b, same) = network.geometry(p, v), far.geometry(2 * p, v)
    assert torch.allclose(2 * a, b, atol=1e-5) and torch.allclose(more, same, atol=1e-5) and more.shape == (60, 127)
    assert math.isclose(network.sharpness, 2 * far.sharpness, rel_tol=1e-5)
    assert math.isclose(network.sharpness, math.exp(2) * 0.5 / 1.34, rel_tol=1e-5)


def test_distances_are_those_of_the_formula():
    """f_g by hand, from a checkpoint's tensors, at a place of their world: rows of v have length g; waves octave by octave."""
    layer, g = LatentSDFLayer().requires_grad_(False), seeded(0)
    for p in layer.parameters():
        p.copy_(torch.randn(p.shape, generator=g) * 0.2)
    points, v = torch.rand(9, 3, generator=g) * 2 - 1, torch.randn(9, 16, generator=g)
    h = torch.cat([points] + [f(scale * points) for scale in (1, 2, 4, 8, 16, 32) for f in (torch.sin, torch.cos)], 1)
    for k in range(3):
        weight = {name.removeprefix(f"lin{k}."): p for name, p in layer.named_parameters()}
        matrix = weight["weight_v"] / weight["weight_v"].norm(dim=1, keepdim=True) * weight["weight_g"]
        h = h @ matrix.T + weight["bias"]
        if k < 2:
            h = torch.cat([h.clamp(min=0) + (-100 * h.abs()).exp().log1p() / 100, v], 1)
    assert torch.allclose(layer(points, v), h, atol=1e-5)
    network, first = small(), orbit(0.0, 0.0)
    network.sdf_network_lod0["sdf_layer"] = layer
    sdf, more = network.geometry(points @ frame(first).inverse().T, v)
    assert torch.allclose(sdf * 1.2 / 1.34 / first.radius, h[:, 0], atol=1e-4) and torch.allclose(more, h[:, 1:], atol=1e-4)
    lines = [*network.geometry.layer.children()]
    assert [(line.in_features, line.out_features) for line in lines] == [(39, 128), (144, 128), (144, 128)]


def test_a_volume_is_read_where_its_voxels_are():
    """A linear field on their voxels is that field at the centres of our cells."""
    network, (images, masks, cameras) = small(), views()

    class Field(torch.nn.Module):
        def forward(self, costs, kept):
            axis = torch.linspace(-1, 1, 16)
            x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
            return (x + 2 * y - 3 * z).expand(1, 16, 16, 16, 16)

    network.sdf_network_lod0["sparse_costreg_net"] = Field()
    there = to_theirs(centres(8), orbit(0.0, 0.0))
    assert torch.allclose(network([(images, masks, cameras)])[0, 5], there @ torch.tensor([1.0, 2, -3]), atol=1e-5)


def test_sets_that_cannot_be_used_are_refused():
    network, (images, masks, cameras) = small(), views()
    for rgb, eyes in ((images[:1], cameras[:1]), (images[:3], cameras), (images[:, :12], cameras)):
        with pytest.raises(ValueError, match="at least two square views, each with a camera"):
            network([(rgb, masks, eyes)])
    away = orbit([0.0, 180.0], 0.0, 30.0, 5.0)
    object.__setattr__(away, "target", 3 * away.positions)
    with pytest.raises(ValueError, match="no voxel lies in the pictures of two views"):
        network([(images[:2], masks[:2], away)])


def test_blended_colours_lie_between_those_of_the_views():
    """A mean of the views that have a place in their picture; of one colour it is that colour; the others change nothing."""
    net, g = Blending().requires_grad_(False), seeded(0)
    v, seen, towards = torch.randn(30, 16, generator=g), torch.rand(5, 30, 59, generator=g), torch.randn(5, 30, 4, generator=g)
    towards[..., 3] = towards[..., 3].tanh()
    inside = torch.rand(5, 30, generator=g) < 0.6
    inside[:2] = True
    rgb = net(v, seen, towards, inside)
    low = seen[..., :3].masked_fill(~inside[..., None], 9.0).amin(0)
    high = seen[..., :3].masked_fill(~inside[..., None], -9.0).amax(0)
    assert ((rgb >= low - 1e-6) & (rgb <= high + 1e-6)).all() and (high - low).min() > 1e-3
    other = seen.masked_fill(~inside[..., None], 0.123)
    assert torch.allclose(net(v, other, towards, inside), rgb, atol=1e-6)
    order = [3, 0, 4, 2, 1]
    assert torch.allclose(net(v, seen[order], towards[order], inside[order]), rgb, atol=1e-5)
    plain = seen.clone()
    plain[..., :3] = torch.tensor([0.2, 0.5, 0.9])
    assert torch.allclose(net(v, plain, towards, inside), plain[0, :, :3], atol=1e-6)


def test_colours_of_a_surface():
    network, (images, masks, cameras) = small(), views()
    volume = network([(images, masks, cameras)])[0]
    p = torch.nn.functional.normalize(torch.randn(40, 3, generator=seeded(2)), dim=-1) * 0.5
    rgb = network.colours(volume, p, 2 * p, images, cameras)
    assert rgb.shape == (40, 3) and rgb.min() >= 0 and rgb.max() <= 1 and rgb.std() > 1e-3
    plain = torch.tensor([0.2, 0.5, 0.9]).expand_as(images)
    assert torch.allclose(network.colours(volume, p, 2 * p, plain, cameras), plain[0, 0, :1].expand(40, 3), atol=1e-5)
    turned = small(first=orbit(90.0, 0.0, fov_deg=FOV_DEG))
    around = orbit(cameras.azimuth_deg + 90, 10.0, fov_deg=FOV_DEG)
    q = torch.stack([-p[:, 1], p[:, 0], p[:, 2]], 1)
    other = turned.colours(turned([(images, masks, around)])[0], q, 2 * q, images, around)
    assert torch.allclose(other, rgb, atol=1e-3)


def test_a_checkpoint_comes_back(tmp_path):
    """Every tensor under its published name, in half precision too; counters of batches do not matter, stored averages do not
    either unless they are asked for."""
    file, tensors, (images, masks, cameras) = tmp_path / "lod0.safetensors", weights(), views()
    save_file(tensors, file)
    network = read_checkpoint(file, cells=16, size=8)
    assert network.state_dict().keys() == tensors.keys()
    assert all(torch.equal(x, tensors[key]) for key, x in network.state_dict().items())
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    volume = network([(images, masks, cameras)])
    assert volume.isfinite().all() and network.sdf(volume[0], torch.rand(9, 3)).isfinite().all()
    counted = {key.replace("running_mean", "num_batches_tracked"): torch.tensor(3) for key in tensors if "running_mean" in key}
    moved = {key: x + 1 if "running" in key else x for key, x in tensors.items()}
    save_file(moved | counted, file)
    assert torch.equal(read_checkpoint(file, cells=16, size=8)([(images, masks, cameras)]), volume)
    changed = read_checkpoint(file, cells=16, size=8, running=True)([(images, masks, cameras)])
    assert (changed - volume).abs().max() > 1e-3
    save_file({key: x.half() for key, x in tensors.items()}, file)
    assert all(x.dtype == torch.float32 for x in read_checkpoint(file).state_dict().values())


def test_a_scene_of_it(tmp_path):
    """NeuS takes its volume and network, and comes back from its file; a wrong name of a file is said by its reader."""
    network, sets = small(), views()
    scene = NeuS(network([sets])[0], network.geometry, 40.0, 16, HashGrid(2, entries=2**10), 8, generator=seeded(0))
    points = torch.rand(9, 3, generator=seeded(3)) - 0.5
    assert torch.equal(scene.sdf(points), network.sdf(scene.volume, points))
    image = scene.render(orbit(30.0), 16, torch.ones(3))
    assert torch.autograd.grad(image.alpha.sum(), scene.volume)[0].norm() > 0
    scene.save(tmp_path / "neus.safetensors")
    again = scenes.load(tmp_path / "neus.safetensors")
    assert torch.equal(again.render(orbit(30.0), 16, torch.ones(3)).rgb, image.rgb)
    with pytest.raises(ValueError, match="reads 16 channels of a volume, got 5"):
        NeuS(torch.zeros(5, 8, 8, 8), network.geometry)
    save_file(weights(), file := tmp_path / "lod0.safetensors")
    found = network_of(str(file), sets[2])
    assert isinstance(found, One2345) and torch.equal(found.frame, frame(sets[2]))
    with pytest.raises(FileNotFoundError, match="gone.safetensors.*: make it of One-2-3-45's lod0 checkpoint"):
        network_of(str(tmp_path / "gone.safetensors"), sets[2])


@pytest.mark.parametrize(("change", "message"), [
    ({"sdf_network_lod0.sdf_layer.lin2.weight_g": None}, "lacks sdf_network_lod0.sdf_layer.lin2.weight_g"),
    ({"sdf_network_lod1.compress_layer.bn.bias": torch.zeros(8)}, "unexpected sdf_network_lod1.compress_layer.bn.bias"),
    ({"head.num_batches_tracked": torch.tensor(1)}, "unexpected head.num_batches_tracked"),
    ({"sdf_network_lod0.sparse_costreg_net.conv0.net.0.kernel": torch.zeros(27, 16, 32)},
     r"misshapen sdf_network_lod0.sparse_costreg_net.conv0.net.0.kernel \(27, 16, 32\) for \(27, 32, 16\)"),
    ({"variance_network_lod0.variance": torch.tensor(math.nan)}, "not finite variance_network_lod0.variance"),
])
def test_other_checkpoints_are_refused_by_name(tmp_path, change, message):
    save_file({key: x for key, x in (weights() | change).items() if x is not None}, tmp_path / "lod0.safetensors")
    with pytest.raises(Refused, match=message + ".*: make it of One-2-3-45's lod0 checkpoint"):
        read_checkpoint(tmp_path / "lod0.safetensors")


def test_a_pickle_is_converted(tmp_path):
    """The networks alone, each tensor its own; a pickle with code is not run; what is no checkpoint is named."""
    src, dst, tensors = tmp_path / "ckpt_215000.pth", tmp_path / "new" / "lod0.safetensors", weights()
    nested = {}
    for key, x in tensors.items():
        name, _, rest = key.partition(".")
        nested.setdefault(name, {})[rest] = x
    training = {"optimizer": {"state": {0: {"step": 3}}, "param_groups": [{"lr": 2e-4}]}, "iter_step": 215_000, "val_step": 0}
    torch.save(training | nested, src)
    convert_pickle(src, dst)
    assert {key: x.tolist() for key, x in load_file(dst).items()} == {key: x.tolist() for key, x in tensors.items()}
    assert torch.equal(read_checkpoint(dst).variance_network_lod0["variance"], tensors["variance_network_lod0.variance"])
    with pytest.raises(FileNotFoundError, match="it is damaged: make it of .*convert_pickle"):
        read_checkpoint(src)

    for stored, message in ((nested | {"epoch": 3, "more": [torch.zeros(2)]}, "unexpected epoch, more"),
                            ([torch.zeros(2)], "unexpected a list")):
        torch.save(stored, src)
        with pytest.raises(Refused, match=f"{message}.*: get One-2-3-45's lod0 checkpoint"):
            convert_pickle(src, tmp_path / "other")

    class Code:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"sdf_network_lod0": Code()}, src)
    with pytest.raises(Refused, match="holds more than tensors, or is no pickle, and was not read"):
        convert_pickle(src, tmp_path / "other")
    src.write_bytes(b"")
    for file, why in ((src, "it is damaged"), (tmp_path / "none.pth", "there is no such file")):
        with pytest.raises(FileNotFoundError, match=f"no checkpoint in .*, {why}: get One-2-3-45's"):
            convert_pickle(file, tmp_path / "other")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "other").exists() and not (tmp_path / "other.part").exists()
