"""The cost volume's parts: projection, agreement as variance, hull, blending, and what is asked of views."""
import math

import pytest
import torch

from dreamlab.cameras import Cameras, Orbit, orbit, ring
from dreamlab.costvolume import (
    Geometry,
    Pyramid,
    Reconstruction,
    Regulariser,
    aggregate,
    agreeing,
    agreement,
    blend,
    centres,
    cut_out,
    hull,
    look,
    project,
    sample,
)
from dreamlab.mesh import Mesh, vertex_normals
from dreamlab.noise import seeded
from dreamlab.toybox.objects import Toy
from dreamlab.toybox.render import mesh, render, trace
from dreamlab.toybox.training import reconstruction as training

SMALL = {"cells": 8, "features": 4, "channels": 4, "widths": (4, 4, 8), "volume_widths": (4, 8), "octaves": 2, "width": 16}


def network(**more) -> Reconstruction:
    torch.manual_seed(0)
    return Reconstruction(**SMALL | more).eval()


def test_projection_is_the_camera_s():
    """The pixel that K and the view matrix say, and the depth along z; behind a camera and beside its picture is not inside."""
    cameras, p = Orbit(aim=0.1, roll_deg=15.0).sample(5, seeded(0)), torch.rand(40, 3, generator=seeded(1)) * 2 - 1
    xy, inside, depth = project(p, cameras)
    local = (cameras.viewmats[:, None, :3, :3] @ p[..., None])[..., 0] + cameras.viewmats[:, None, :3, 3]
    pixel = (cameras.Ks(64)[:, None] @ local[..., None])[..., 0]
    pixel = pixel[..., :2] / pixel[..., 2:]
    assert torch.allclose((xy + 1) * 32, pixel, atol=1e-4) and torch.allclose(depth, local[..., 2], atol=1e-5)
    assert torch.equal(inside, ((pixel >= 0) & (pixel <= 64)).all(-1))
    eye = orbit(0.0, 0.0, 2.4)
    assert project(torch.tensor([[3.0, 0, 0], [0.0, 2, 0], [0.0, 0, 0]]), eye)[1][0].tolist() == [False, False, True]


def test_a_pixel_s_centre_reads_its_colour():
    """The crossing from rays to places in a picture: a point on the ray of pixel (v, u) reads exactly that pixel."""
    cameras, pictures = Orbit().sample(2, seeded(0)), torch.rand(2, 3, 16, 16, generator=seeded(1))
    eyes, directions = cameras.rays(16)
    for i in range(2):
        points = (eyes[i] + 2.3 * directions[i]).view(-1, 3)
        xy, inside, _ = project(points, cameras[i : i + 1])
        assert inside.all() and torch.allclose(look(pictures[i : i + 1], xy)[0], pictures[i].flatten(1), atol=2e-4)


@pytest.mark.parametrize("n", [2, 3, 7])
def test_variance_is_0_where_views_agree(n):
    """Any number of views from anywhere of one plain colour, whose mean it is; any order; one that differs is seen at once."""
    cameras, points = Orbit().sample(n, seeded(n)), torch.rand(50, 3, generator=seeded(0)) - 0.5
    plain = torch.tensor([0.2, 0.9, 0.5]).view(1, 3, 1, 1).expand(n, 3, 12, 12)
    mean, variance, count = aggregate(plain, cameras, points)
    assert variance.abs().max() < 1e-12 and torch.allclose(mean, plain[0, :, 0, :1].expand(-1, 50)) and (count == n).all()
    pictures = torch.rand(n, 3, 12, 12, generator=seeded(1))
    order = torch.randperm(n, generator=seeded(2))
    turned = Cameras(*(x[order] for x in vars(cameras).values()))
    for a, b in zip(aggregate(pictures, cameras, points), aggregate(pictures[order], turned, points), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    other = plain.clone()
    other[0] = 0
    assert torch.allclose(aggregate(other, cameras, points)[1],
                          (plain[0, :, 0, :1].square() * (1 / n - 1 / n**2)).expand(-1, 50), atol=1e-6)


def test_only_views_that_have_a_point_count():
    """A view beside whose picture a point lies changes nothing; of fewer than two there is neither mean nor variance."""
    point, cameras = torch.tensor([[0.0, 0.0, 0.7]]), orbit([0.0, 90.0, 200.0], [0.0, 10.0, 5.0])
    away = Cameras(*(torch.cat([a, b]) for a, b in zip(vars(cameras).values(), vars(orbit(0.0, 0.0, 0.9, 30.0)).values(),
                                                         strict=True)))
    pictures = torch.rand(4, 2, 12, 12, generator=seeded(0))
    for a, b in zip(aggregate(pictures, away, point), aggregate(pictures[:3], cameras, point), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    for x in aggregate(pictures[:1], cameras[:1], point)[:2]:
        assert (x == 0).all()
    masks = torch.ones(4, 8, 8, 1)
    assert hull(masks[:3], cameras, point) == 0.5 and hull(masks, away, point) == -0.5  # a picture holds all of the object


def test_the_sampler_has_second_derivatives():
    """What NeuS's and the eikonal loss need of V(x), in volume and place; at a cell's centre it is the cell."""
    volume = torch.randn(2, 4, 4, 4, generator=seeded(0), dtype=torch.float64).requires_grad_()
    points = (torch.rand(5, 3, generator=seeded(1), dtype=torch.float64) * 1.2 - 0.6).requires_grad_()
    assert torch.autograd.gradcheck(sample, (volume, points)) and torch.autograd.gradgradcheck(sample, (volume, points))
    v = torch.randn(3, 4, 4, 4, generator=seeded(2))
    assert torch.allclose(sample(v, centres(4).view(-1, 3)).T.reshape(3, 4, 4, 4), v, atol=1e-6)


def test_sizes_at_the_paper_s_numbers():
    """f_g: 39 -> 128, 144 -> 128, 144 -> 128 (official code); f_2D's levels halve; f_3D keeps the size of the volume."""
    geometry = Geometry()
    assert [tuple(layer.weight.shape) for layer in geometry.layers] == [(128, 39), (128, 144), (128, 144)]
    sdf, more = geometry(torch.rand(7, 3), torch.rand(7, 16))
    assert sdf.shape == (7,) and more.shape == (7, 127)
    assert Pyramid(4, (8, 16, 32), 16)(torch.rand(2, 4, 64, 64)).shape == (2, 16, 64, 64)
    assert Regulariser(32, (16, 16, 32, 64), 16).eval()(torch.rand(1, 32, 16, 16, 16)).shape == (1, 16, 16, 16, 16)


def test_it_begins_as_a_ball_with_slope_1():
    p = (torch.rand(200, 3, generator=seeded(0)) * 2 - 1).requires_grad_()
    sdf = network().sdf(torch.randn(4, 8, 8, 8, generator=seeded(1)), p)
    assert torch.allclose(sdf, p.norm(dim=-1) - 0.5, atol=1e-6)
    slope, = torch.autograd.grad(sdf.sum(), p)
    assert torch.allclose(slope.norm(dim=-1), torch.ones(200), atol=1e-5)


def test_a_set_s_volume_is_its_own():
    """Order of views and company of other sets change nothing; another view does."""
    net, views = network(), [render(Toy(kind), "red", ring(4), 32) for kind in ("mug", "duck")]
    sets = [(v.rgb, v.alpha, ring(4)) for v in views]
    both = net(sets)
    assert torch.allclose(both[:1], net(sets[:1]), atol=1e-5) and torch.allclose(both[1:], net(sets[1:]), atol=1e-5)
    order = [2, 0, 3, 1]
    turned = (views[0].rgb[order], views[0].alpha[order], Cameras(*(x[order] for x in vars(ring(4)).values())))
    assert torch.allclose(net([turned]), both[:1], atol=1e-4)
    wrong = views[0].rgb.clone()
    wrong[1] = views[1].rgb[1]
    assert (net([(wrong, views[0].alpha, ring(4))]) - both[:1]).abs().max() > 1e-3


def test_sets_that_cannot_be_used_are_refused():
    net, rgb, alpha = network(), torch.rand(3, 16, 16, 3), torch.rand(3, 16, 16, 1)
    for images, masks, cameras in ((rgb[:1], alpha[:1], ring(1)), (rgb, alpha[:2], ring(3)), (rgb, alpha, ring(4))):
        with pytest.raises(ValueError, match="a volume needs at least two views, each with a mask and a camera, got"):
            net([(images, masks, cameras)])
    for images, masks in ((torch.rand(3, 16, 12, 3), torch.rand(3, 16, 12, 1)), (rgb, torch.rand(3, 8, 8, 1))):
        with pytest.raises(ValueError, match="must be square and of one size"):
            net([(images, masks, ring(3))])


def test_the_hull_of_true_masks_holds_the_object():
    """All of a toy is inside of it; more views take more off."""
    toy, places = Toy("duck"), centres(24).view(-1, 3)
    inside = toy.sdf(places) < -0.03
    volumes = []
    for n in (4, 12):
        cameras = ring(n)
        found = hull(render(toy, "red", cameras, 64).alpha, cameras, places) > 0
        assert (found | ~inside).all()
        volumes.append(found.sum())
    assert inside.sum() < volumes[1] <= volumes[0]


def test_blended_colours_are_those_of_the_views():
    """A toy's own mesh gets its own colours, from views that see it squarely; its far side is seen by none of them."""
    toy, cameras = mesh(Toy("bear"), "blue", 48), orbit([*range(0, 360, 45)] * 2, [20.0] * 8 + [-40.0] * 8)
    normals = vertex_normals(toy.vertices, toy.faces)
    images = render(Toy("bear"), "blue", cameras, 64).rgb
    plain = torch.tensor([0.1, 0.8, 0.3]).expand(16, 64, 64, 3)
    colours, seen = blend(toy, normals, plain, cameras)
    assert torch.allclose(colours[seen], plain[0, 0, :1].expand(int(seen.sum()), 3), atol=1e-5) and seen.float().mean() > 0.8
    colours, seen = blend(toy, normals, images, cameras)
    blue = (toy.colours - toy.colours[toy.colours[:, 2].argmax()]).norm(dim=1) < 0.05
    assert (colours[seen & blue].argmax(1) == 2).float().mean() > 0.9
    front = ring(1)
    _, seen = blend(toy, normals, images[:1], front)
    away = (normals * torch.nn.functional.normalize(front.positions - toy.vertices, dim=-1)).sum(-1) < 0
    assert not (seen & away).any() and seen.any()


def test_a_nearer_surface_hides_what_is_behind_it():
    """Two squares one behind the other: only the nearer has a colour from the front."""
    square = torch.tensor([[0.0, -1, -1], [0.0, 1, -1], [0.0, 1, 1], [0.0, -1, 1]])
    vertices = torch.cat([0.5 * square + torch.tensor([0.4, 0, 0]), 0.3 * square - torch.tensor([0.4, 0, 0])])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    normals = torch.tensor([1.0, 0, 0]).expand(8, 3)
    _, seen = blend(Mesh(vertices, faces, vertices), normals, torch.rand(1, 64, 64, 3), orbit(0.0, 0.0))
    assert seen.tolist() == [True] * 4 + [False] * 4


@pytest.mark.parametrize("kind", ["mug", "robot", "snowman", "owl"])
def test_a_grey_background_is_cut_away(kind):
    """The masks of true views over grey are their silhouettes within a pixel of the outline, handle and all."""
    cameras = ring(6)
    shown = render(Toy(kind), "red", cameras, 64, (0.5,) * 3)
    images, masks = cut_out(shown.rgb)
    true = shown.alpha > 0.5
    both, either = ((masks > 0.5) & true).sum(), ((masks > 0.5) | true).sum()
    assert both / either > 0.93
    assert torch.equal(images[(masks == 0)[..., 0]], torch.ones(int((masks == 0).sum()), 3))


def test_an_empty_picture_is_all_background():
    images, masks = cut_out(torch.full((2, 32, 32, 3), 0.5))
    assert not masks.any() and (images == 1).all() and not math.isnan(images.mean().item())


def test_training_writes_a_network(tmp_path, monkeypatch):
    """A step on two objects: a folder that loads, and whose distances are finite; what is damaged or missing is named."""
    for name, value in (("OBJECTS", 2), ("POINTS", 600)):
        monkeypatch.setattr(training, name, value)
    folder = training.train_reconstruction(tmp_path, steps=1)
    net = Reconstruction.load(folder)
    assert not net.training and net.config == Reconstruction().config
    volume = net([(torch.rand(4, 64, 64, 3), torch.ones(4, 64, 64, 1), ring(4))])[0]
    assert net.sdf(volume, torch.rand(9, 3)).isfinite().all()
    (folder / "config.json").write_text("[]")
    with pytest.raises(FileNotFoundError, match="no config of a reconstruction network in .*use 'toybox', the bundled one"):
        Reconstruction.load(folder)


def test_the_training_s_objects_are_where_they_should_be():
    """Distances of moved bodies to first order: 0 on a traced surface; all of them within the ball that is traced."""
    for i in range(6):
        thing, cameras = training.body(i, 8), ring(3)
        layers = trace(thing, cameras, 32)
        seen = cameras.unproject(layers.depth)[layers.alpha[..., 0] > 0.99]
        assert len(seen) > 50 and thing.sdf(seen).abs().median() < 0.01
        far = torch.nn.functional.normalize(torch.randn(4000, 3, generator=seeded(i)), dim=-1) * 0.9
        assert thing.sdf(far).min() > 0


def test_a_view_of_another_object_is_left_out_and_true_ones_stay():
    cameras = ring(8)
    duck, house = (render(Toy(kind), "red", cameras, 48).alpha for kind in ("duck", "house"))
    assert agreeing(duck, cameras) == list(range(8)) and agreement(duck, cameras).min() > 0.8
    wrong = torch.cat([duck[:3], house[3:4], duck[4:]])
    assert agreement(wrong, cameras).argmin() == 3 and agreeing(wrong, cameras) == [0, 1, 2, 4, 5, 6, 7]
    assert 3 in agreeing(wrong, cameras, sure=(3,))  # a user's own picture, say
    some = [0, 2, 3, 4, 6, 7]
    assert len(agreeing(wrong[some], cameras[some])) == 6  # of so few, none goes
    assert agreement(torch.zeros_like(duck), cameras).eq(0).all()
