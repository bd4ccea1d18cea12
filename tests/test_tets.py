"""Meshes that learn: always closed, begun where the shape is; and their losses, normals, critic, adapters and metric."""
import math
from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from zoo import inputs, prior

from dreamlab import scenes
from dreamlab.cameras import orbit, ring
from dreamlab.losses import Surface
from dreamlab.mesh import euler, lattice, marching_tetrahedra, sample, volume, watertight
from dreamlab.metrics.align import Pose, align
from dreamlab.metrics.shape import shape as measure
from dreamlab.metrics.shape import true_points
from dreamlab.metrics.truth import chamfer
from dreamlab.noise import seeded, stream
from dreamlab.pipeline import alone
from dreamlab.priors.critic import IdentityCritic, identity
from dreamlab.priors.diffusion import DiffusionPrior
from dreamlab.priors.points import load_points
from dreamlab.rules import APFO, SDS
from dreamlab.scenes.base import Begin, Scene
from dreamlab.scenes.gaussians import Gaussians
from dreamlab.scenes.nerf import HashGrid, NeRF
from dreamlab.scenes.tets import MOST, Tets, filled, level, nerf_to_tets, shape, signed, tight
from dreamlab.scenes.textured import draw, texture
from dreamlab.schedules import Grid
from dreamlab.stage import normals
from dreamlab.toybox.objects import KINDS, Toy
from dreamlab.toybox.render import mesh, trace
from dreamlab.types import Render

BOX = torch.tensor([[-0.8] * 3, [0.8] * 3])
WHITE = torch.ones(3)


def ball(places, radius=0.5, centre=(0.0, 0.0, 0.0)):
    return (places - torch.tensor(centre)).norm(dim=-1) - radius


def tets(values, box=BOX, **more):
    return Tets(values, box, HashGrid(1, 2, 2**10, 4, generator=seeded(0)), 8, generator=seeded(0), **more)


# The scene.


def test_the_surface_is_closed_whatever_is_learnt(generator):
    places = lattice(13, 0.8)
    for values in (ball(places), ball(places, 2.0), ball(places, 0.8), torch.full((13, 13, 13), -1.0)):
        scene = tets(values)
        assert watertight(scene.mesh()) and volume(scene.mesh()) > 0 and euler(scene.mesh()) == 2
        with torch.no_grad():
            scene.shape["sdf"].normal_(generator=generator)
            scene.shape["offsets"].normal_(generator=generator).mul_(9)
        vertices, faces = scene.surface()
        assert watertight(scene.mesh()) and len(faces)
        assert (scene.places() - places).abs().max() <= MOST * 1.6 / 12 + 1e-6
        assert vertices.abs().max() <= 0.8 + MOST * 1.6 / 12
    open_ = marching_tetrahedra(ball(places, 0.9), places)  # the field itself leaves the grid
    assert not watertight(replace(scene.mesh(), vertices=open_[0], faces=open_[1], colours=open_[0]))


def test_what_is_learnt_is_smooth_and_moves_the_surface():
    scene, cell = tets(ball(lattice(17, 0.8))), 0.1
    with torch.no_grad():
        scene.shape["sdf"][8, 8, 12] = 1.0
        bump = scene.distances() - scene.shape["start"]
        assert bump.sum().item() == pytest.approx(1, abs=1e-3) and bump.max() == bump[8, 8, 12] < 0.1
        assert bump[8, 8, 11].item() == pytest.approx(bump[8, 8, 12].item() * math.exp(-0.5), rel=1e-3)  # sigma = one cell
        scene.shape["sdf"].fill_(0.05)
        radius = scene.mesh().vertices.norm(dim=-1)
    assert (radius - 0.45).abs().max() < 0.5 * cell and radius.mean().item() == pytest.approx(0.45, abs=0.01)


def test_a_texture_keeps_the_surface_and_drops_floaters(generator):
    places = lattice(33, 0.8)
    values = torch.minimum(ball(places), ball(places, 0.03, (0.7, 0.7, 0.7)))
    scene = tets(values)
    with torch.no_grad():
        scene.shape["offsets"].normal_(generator=generator)
    whole, kept = scene.surface()[1], scene.mesh()
    assert 0 < len(whole) - len(kept.faces) < 0.01 * len(whole) and kept.vertices.norm(dim=-1).max() < 0.6
    still = texture(Begin("", prior("points"), generator, lambda name: scene), of="geometry")
    assert torch.equal(still.mesh().vertices, kept.vertices) and torch.equal(still.surface()[1], kept.faces)
    assert still.rates.keys() == {"grid", "color"} and not still.surface()[0].requires_grad
    found = still.render(ring(2), 16, WHITE)
    learns = {name for name, leaf in still.parameters().items() if leaf.requires_grad}
    assert {name.split(".")[0] for name in learns} == {"grid", "color"}
    for grad in torch.autograd.grad(found.rgb.sum(), [still.parameters()[name] for name in learns]):
        assert grad.abs().sum() > 0


def test_the_file_shows_the_same_picture(tmp_path, generator):
    scene = tets(ball(lattice(13, 0.8)), radius=0.9)
    with torch.no_grad():
        for leaf in scene.parameters().values():
            leaf.add_(0.05 * torch.randn(leaf.shape, generator=generator))
    scene.save(tmp_path / "a")
    again = scenes.load(tmp_path / "a")
    assert again.config() == scene.config()
    assert torch.equal(again.render(ring(2), 24, WHITE).rgb, scene.render(ring(2), 24, WHITE).rgb)


def test_where_no_surface_is_left_it_says_so():
    scene = tets(torch.ones(9, 9, 9))
    with pytest.raises(ValueError, match="^no surface is left to draw: begin with a larger shape, or lower the rate of sdf$"):
        scene.render(ring(2), 16, WHITE)
    with torch.no_grad():
        shown = scene.render(ring(2), 16, torch.tensor([0.2, 0.5, 0.7]))
    assert (shown.alpha == 0).all() and torch.allclose(shown.rgb, torch.tensor([0.2, 0.5, 0.7]).expand(2, 16, 16, 3))
    assert (shown.normal == 0).all() and scene.count() == {"faces": 0} and len(scene.mesh().faces) == 0
    with pytest.raises(ValueError, match=r"start must be .* got a tensor \(9, 9, 9\) .*, 1 values not finite: change start"):
        tets(torch.where(torch.arange(729).view(9, 9, 9) == 5, float("nan"), 1.0))


# How it begins.


def test_a_shell_is_filled_and_its_holes_are_not():
    places = lattice(21, 1.0)
    shell = (ball(places, 0.6).abs() < 0.12)
    inside = filled(shell)
    assert torch.equal(inside, ball(places, 0.6) < 0.12)
    drilled = shell & ~((places[..., :2].norm(dim=-1) < 0.15) & (places[..., 2] > 0))
    assert torch.equal(filled(drilled), drilled)
    assert not filled(torch.zeros(5, 5, 5, dtype=torch.bool)).any() and filled(torch.ones(5, 5, 5, dtype=torch.bool)).all()


def test_the_box_leaves_room_for_the_surface():
    """A tenth of its sides on either side of what is inside, and for what is thin a cell: the surface may be so far out."""
    places = lattice(21, 1.0)
    box = tight(ball(places, 0.75) < 0, places)
    assert torch.allclose(box, torch.tensor([[-0.84] * 3, [0.84] * 3]))  # corners at -0.7 ... 0.7
    thin = torch.zeros(21, 21, 21, dtype=torch.bool)
    thin[10, 5:16, 5:16] = True
    assert torch.allclose(tight(thin, places), torch.tensor([[-0.1, -0.6, -0.6], [0.1, 0.6, 0.6]]), atol=1e-6)
    with pytest.raises(ValueError, match="the shape to begin with is empty: give the part before it more steps"):
        tight(thin & False, places)


def test_signed_distances_are_those_of_the_surface():
    places = lattice(25, 0.8)
    found = signed(-ball(places).sign() * ball(places).abs() ** 0.5 + 0.0, places)  # an occupancy of the same surface
    true = ball(places)
    assert torch.equal(found < 0, true < 0)
    assert (found - true).abs().max() < 0.05 and (found - true).abs().mean() < 0.012
    assert (signed(-ball(places), places) - true).abs().mean() < 0.005
    with pytest.raises(ValueError, match="the shape to begin with is empty"):
        signed(torch.full_like(true, -1), places)


@cache
def begun(kind):
    """What the points prior says of a kind in red."""
    begin = Begin(f"a red {kind}", prior("toybox"), seeded(0), alone)
    return shape(begin, prior="toybox", cells=32, levels=2, finest=32, hidden=16)


@pytest.mark.parametrize("kind", ["duck", *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS if kind != "duck")])
def test_the_points_priors_shape_is_near_the_truths(kind):
    found = begun(kind).mesh()
    points, _ = sample(found, 4000, seeded(0))
    distance = chamfer(points, true_points(kind))
    print(kind, distance)
    assert watertight(found) and volume(found) > 0 and distance < 0.035 < chamfer(0.85 * points, true_points(kind))


def test_the_points_priors_colours_are_learnt():
    scene = begun("duck")
    points, colours = load_points("toybox")("a red duck", 2000, seeded(1))
    with torch.no_grad():
        assert (scene.paint(points) - colours).abs().mean() < 0.5 * (colours - colours.mean(0)).abs().mean()
    assert all(leaf.grad is None for leaf in scene.parameters().values())


@pytest.fixture
def field():
    """A radiance field that is a ball, sharp, beside the middle."""
    nerf = NeRF(HashGrid(2, 2, 2**10, 8, 2.0, generator=seeded(0)), 8, 0.85, 32, generator=seeded(0))
    nerf.density = lambda points, features=None: F.relu(-2000 * ball(points, 0.35, (0.1, -0.2, 0.15)))
    return nerf


def test_a_fields_surface_is_where_it_shows_it(field):
    begin = Begin("", prior("points"), stream(0, "start"), lambda name: field)
    scene = nerf_to_tets(begin, of="nerf", cells=16)
    found, cell = scene.mesh(), (scene.box[1] - scene.box[0]).max() / 16
    assert watertight(found) and euler(found) == 2
    assert ball(found.vertices, 0.35, (0.1, -0.2, 0.15)).abs().max() < 0.5 * cell
    assert 0.5 <= level(field) <= 32
    points = found.vertices
    with torch.no_grad():
        assert torch.equal(scene.paint(points), field.field(points)[1])
    field.density = lambda points, features=None: 0 * points[:, 0]
    with pytest.raises(ValueError, match="the shape to begin with is empty: give the part before it more steps"):
        nerf_to_tets(begin, of="nerf", cells=16)


def test_the_level_is_that_of_the_silhouette(field):
    """A ball in a haze, 5 outside and 50 inside: the haze is shown too where it is thick, and the level lies below it."""
    for haze, within_ball in ((0.2, True), (20.0, False)):
        field.density = lambda p, features=None, haze=haze: torch.where(
            ball(p, 0.3) < 0, 100.0, haze * (ball(p, 0.6) < 0))
        assert (level(field) > haze) == within_ball


def test_only_what_fits_is_begun_from():
    begin = Begin("", prior("points"), seeded(0), lambda name: Gaussians.ball(60, generator=seeded(0)))
    for start, wanted in ((nerf_to_tets, "names a part that made a NeRF"), (texture, "must name a part that made a mesh")):
        with pytest.raises(ValueError, match=f"start.of {wanted}, got 'x', which made a Gaussians"):
            start(begin, of="x")


# Losses.


class Bare:
    """A scene of a given surface."""

    def __init__(self, vertices, faces):
        self.vertices, self.faces = vertices, faces

    def surface(self):
        return self.vertices, self.faces


def loss(vertices, faces, consistency=1.0, laplacian=0.0):
    nothing = torch.zeros(1, 1, 1, 1)
    return Surface(consistency, laplacian)(Bare(vertices, faces), Render(nothing.expand(1, 1, 1, 3), nothing))


OCTAHEDRON = (torch.cat([torch.eye(3), -torch.eye(3)]).double(),
              torch.tensor([[0, 1, 2], [1, 3, 2], [3, 4, 2], [4, 0, 2], [1, 0, 5], [3, 1, 5], [4, 3, 5], [0, 4, 5]]))


def cube():
    places = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 3)
    quads = torch.tensor([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]])
    return places, torch.cat([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])


def test_consistency_of_planes_cubes_and_octahedra():
    i, j = torch.meshgrid(torch.arange(5), torch.arange(5), indexing="ij")
    k = (5 * i + j)[:4, :4].flatten()
    plane = torch.stack([i, j, 0 * i], -1).view(-1, 3).double() @ torch.linalg.qr(torch.randn(3, 3).double()).Q
    faces = torch.cat([torch.stack([k, k + 5, k + 6], 1), torch.stack([k, k + 6, k + 1], 1)])
    assert loss(plane, faces).abs() < 1e-12
    bent = plane.clone()
    bent[12] += torch.linalg.cross(plane[1] - plane[0], plane[5] - plane[0])
    assert loss(bent, faces) > 0.05
    assert loss(*cube()).item() == pytest.approx(12 / 18) and loss(*OCTAHEDRON).item() == pytest.approx(2 / 3)
    vertices, faces = OCTAHEDRON
    assert loss(vertices, torch.cat([faces[:1].flip(1), faces[1:]])).item() == pytest.approx((9 * 2 / 3 + 3 * 4 / 3) / 12)
    assert loss(vertices, faces[:4]).item() == pytest.approx(2 / 3)  # a border has one face, and is left out


def test_laplacian_is_the_distance_from_the_neighbours_mean():
    vertices, faces = OCTAHEDRON
    assert loss(vertices, faces, 0.0, 1.0).item() == pytest.approx(1)  # the mean of four neighbours is the middle
    assert loss(3 * vertices + 1, faces, 0.0, 2.0).item() == pytest.approx(6)
    places = lattice(17, 0.8).double()
    surface = marching_tetrahedra(ball(places), places)
    away = []
    for v, place in enumerate(surface[0][:50]):
        around = surface[1][(surface[1] == v).any(1)].unique()
        away.append((surface[0][around[around != v]].mean(0) - place).norm())
    seen = surface[0].clone()
    found = loss(seen, surface[1], 0.0, 1.0)
    assert 0 < found < 0.05  # half a cell
    seen[:50] += 0  # the same by hand, vertex by vertex
    for v in range(50, len(seen)):
        around = surface[1][(surface[1] == v).any(1)].unique()
        away.append((surface[0][around[around != v]].mean(0) - surface[0][v]).norm())
    assert found.item() == pytest.approx(torch.stack(away).mean().item())


def test_surface_losses_have_the_gradient_of_differences(generator):
    vertices = (OCTAHEDRON[0] + 0.1 * torch.randn(6, 3, generator=generator).double()).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: loss(v, OCTAHEDRON[1], 0.7, 1.3), vertices)


def test_surface_losses_are_for_surfaces_that_learn():
    Surface().check(tets(ball(lattice(9, 0.8))))
    still = texture(Begin("", prior("points"), seeded(0), lambda name: tets(ball(lattice(9, 0.8)))), of="it")
    for scene in (Gaussians.ball(60, generator=seeded(0)), still):
        with pytest.raises(ValueError, match=f"smooths the mesh of a Tets, got a {type(scene).__name__}: leave it out"):
            Surface().check(scene)


# Normals.


class Eye:
    """A prior that sees a picture as it is."""

    def encode(self, images):
        return images


def solid(kind, n=33):
    places = lattice(n, 0.95)
    return tets(Toy(kind).sdf(places.view(-1, 3)).view(n, n, n), torch.tensor([[-0.95] * 3, [0.95] * 3]))


def test_the_prior_is_shown_the_truths_normals():
    background = torch.tensor([[0.1, 0.2, 0.3], [0.9, 0.8, 0.7]])
    cameras = orbit([30.0, 200.0], [10.0, 40.0])
    render, picture = normals(solid("duck"), Eye(), cameras, 64, background, seeded(0))
    true = trace(Toy("duck"), cameras, 64)
    inner = (render.alpha[..., 0] == 1) & (true.alpha[..., 0] == 1)
    cosine = (F.normalize(2 * picture - 1, dim=-1) * true.normal).sum(-1)[inner]
    assert inner.float().mean() > 0.1 and cosine.mean() > 0.97
    empty = render.alpha[..., 0] == 0
    assert torch.allclose(picture[empty], background[:, None, None].expand_as(picture)[empty])
    assert picture.min() >= 0 and picture.max() <= 1 and picture.requires_grad
    flipped = (F.normalize(1 - 2 * picture, dim=-1) * true.normal).sum(-1)[inner]
    assert flipped.mean() < -0.9


def test_normals_that_are_not_there_or_not_finite_are_named():
    scene, real = solid("duck", 9), Tets.render
    for change, kind, says in (({"normal": None}, ValueError, "a Tets shows no normals: let the prior look at its colours"),
                               ({"normal": torch.full((1, 8, 8, 3), float("nan"))}, FloatingPointError,
                                "the normals have 192 of 192 values that are not finite: the Tets's leaves are finite")):
        scene.render = lambda *args, change=change: replace(real(scene, *args), **change)
        with pytest.raises(kind, match=says):
            normals(scene, Eye(), ring(1), 8, torch.ones(1, 3), seeded(0))


# The identity critic, and adapters.


@pytest.mark.parametrize("name", ["points", "pixels", "eps", "v"])
def test_apfo_with_the_identity_critic_is_sds_with_the_grids_weight(name):
    grid = Grid(900, 0, 300)
    known = prior(name)
    x, t, eps, prompt = inputs(known)
    t = grid.t[:-1][t % 300]
    apfo = APFO(identity(known, 1e-3, 0), guidance=4.0, grid=grid)
    assert isinstance(apfo.critic, IdentityCritic)
    found, sds = apfo(known, x, t, eps, prompt), SDS(4.0, grid.weight)(known, x, t, eps, prompt)
    assert (found.value - sds.value).norm() < 1e-5 * sds.value.norm() and torch.equal(found.weight, sds.weight)
    assert apfo.critic.fits == 1 and found.loss == 0
    assert (APFO(identity(known, 1e-3, 0), guidance=4.0, grid=Grid(900, 0, 90))(known, x, t, eps, prompt).value - sds.value
            ).norm() > 0.1 * sds.value.norm()
    with pytest.raises(ValueError, match="the identity critic has no renders yet"):
        identity(known, 1e-3, 0).eps(x, t, prompt.positive)


@pytest.mark.parametrize("name, side, t", [("toybox-normals", 16, 500), ("toybox-refiner", 32, 200)])
def test_adapters_change_the_bundled_prior_and_nothing_else(name, side, t, generator):
    found, plain = DiffusionPrior.load(name), prior("toybox")
    assert found.shape == (8, side, side) and found.card.base == "toybox" and found.resolution == 4 * side
    assert found.encode(torch.rand(1, 64, 64, 3, generator=generator)).shape == (1, 8, side, side)
    y = plain.embed(["a red mug"])
    assert torch.equal(found.embed(["a red mug"]), y)
    x, plain_t = torch.randn(1, 8, 16, 16, generator=generator), torch.tensor([t])
    found.shape = plain.shape
    with torch.no_grad():
        a, b = (of.eps(x, plain_t, y)[0] for of in (found, plain))
    assert 0.02 < (a - b).norm() / b.norm() < 1
    names = [n for n, _ in found.unet.named_parameters()]
    assert names == [n for n, _ in plain.unet.named_parameters()]  # no adapter is left in it
    for part in ("vae",):
        assert all(torch.equal(p, q) for p, q in zip(getattr(found, part).parameters(), getattr(plain, part).parameters(),
                                                     strict=True))


def test_an_adapter_of_an_adapter_is_refused(tmp_path):
    replace(DiffusionPrior.load("toybox").card, base="toybox-normals").write(tmp_path)
    with pytest.raises(ValueError, match="is an adapter of 'toybox-normals', which is one itself: name a whole prior"):
        DiffusionPrior.load(tmp_path)


# The metric of surfaces.


class Solid(Scene):
    """The truth's own mesh, moved by a pose, unlit; ``normal`` multiplies its normals."""

    def __init__(self, kind, pose=None, normal=1.0):
        made, pose = mesh(Toy(kind), "red", 33), pose or Pose()
        self.toy, self.pose, self.sign = Toy(kind), pose, normal
        self.made = replace(made, vertices=pose.apply(made.vertices))

    def mesh(self):
        return self.made

    def paint(self, points):
        fixed, main = self.toy.paint(self.pose.undo(points))
        return fixed + main[:, None] * torch.tensor([0.85, 0.1, 0.1])

    def render(self, cameras, resolution, background, generator=None):
        found = draw(self.made.vertices, self.made.faces, self.paint, cameras, resolution, background)
        return replace(found, normal=self.sign * found.normal)


@pytest.mark.slow
def test_the_metric_of_surfaces_reads_what_is_known():
    pose = Pose(70.0, (0.05, -0.04, 0.03), 1.1)
    pair = align((plain := Solid("duck")).render, "duck", "red")
    own = measure(plain, pair)
    assert 0.010 < own["mesh_chamfer"] < 0.016 and own["mesh_cosine"] > 0.97 and own["inside_psnr"] > 12
    inverted = measure(Solid("duck", normal=-1.0), pair)
    assert inverted["mesh_cosine"] < -0.9 and inverted["mesh_chamfer"] == own["mesh_chamfer"]
    found = measure(moved := Solid("duck", pose), align(moved.render, "duck", "red"))
    assert found["mesh_chamfer"] == pytest.approx(own["mesh_chamfer"], abs=0.003)
    assert found["mesh_cosine"] == pytest.approx(own["mesh_cosine"], abs=0.02)
    assert found["inside_psnr"] == pytest.approx(own["inside_psnr"], abs=1)
    assert measure(moved, pair)["mesh_chamfer"] > 3 * own["mesh_chamfer"]  # without the alignment
    other = measure(wrong := Solid("car"), align(wrong.render, "duck", "red"))
    assert other["mesh_chamfer"] > 2 * own["mesh_chamfer"] and other["mesh_cosine"] < own["mesh_cosine"] - 0.1
    assert other["inside_psnr"] < own["inside_psnr"]
    print(own, found, other)
    with pytest.raises(ValueError, match="Gaussians have no surface to make a mesh of"):
        measure(Gaussians.ball(60, generator=seeded(0)), pair)
