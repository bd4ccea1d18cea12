"""Rasterising: equal to rays that meet triangles, smooth attributes, and silhouettes whose gradient is that of the area."""
from importlib.util import find_spec

import pytest
import torch

from dreamlab.cameras import Orbit, orbit, ring
from dreamlab.mesh import lattice, marching_tetrahedra
from dreamlab.noise import seeded
from dreamlab.render import mesh as module
from dreamlab.render.mesh import antialias, project, rasterize, visible

CAMERAS = orbit([20.0, 200.0], [10.0, -30.0], 2.4, 40.0)


def soup(n, generator, size=0.4, dtype=torch.float64):
    """n triangles of their own corners, which pass through each other."""
    rand = lambda *shape: 2 * torch.rand(*shape, generator=generator, dtype=dtype) - 1  # noqa: E731
    return (0.6 * rand(n, 1, 3) + size * rand(n, 3, 3)).view(-1, 3), torch.arange(3 * n).view(n, 3)


def traced(vertices, faces, cameras, resolution):
    """Möller and Trumbore (1997) in double precision, each ray with each triangle: face, barycentrics and depth along z of the
    nearest, and whether rounding may decide: an edge within 1e-4 of the ray, or two faces within 1e-5."""
    origins, rays = (x.double() for x in cameras.rays(resolution))
    corners, found = vertices.double()[faces], []
    e1, e2 = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    for origin, ray, forward in zip(origins, rays.flatten(1, 2), cameras.viewmats[:, 2, :3].double(), strict=True):
        s, ray = origin - corners[:, 0], ray[:, None]
        p, q = torch.linalg.cross(ray, e2[None]), torch.linalg.cross(s, e1)
        det = (p * e1).sum(-1)
        u, v, t = (p * s).sum(-1) / det, (ray * q).sum(-1) / det, (e2 * q).sum(-1) / det
        bary = torch.stack([1 - u - v, u, v], -1)
        z = torch.where((bary.amin(-1) >= 0) & (t > 0), t * (ray[:, 0] @ forward)[:, None], float("inf"))
        near, face = z.min(1)
        close = (bary.amin(-1).abs().amin(1) < 1e-4) | (z.sort(1).values.diff(dim=1)[:, 0] < 1e-5)
        found.append((torch.where(near < float("inf"), face, -1), bary[torch.arange(len(face)), face], near, close))
    return [torch.stack(x).unflatten(1, (resolution, resolution)) for x in zip(*found, strict=True)]


def depth_of(seen):
    corner = torch.stack([screen[seen.faces[face.clamp(min=0)]][..., 2]
                          for screen, face in zip(seen.screen, seen.face, strict=True)])
    return (seen.bary * corner).sum(-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_rays_through_triangles(dtype, generator):
    for _ in range(25):
        vertices, faces = soup(12, generator, dtype=dtype)
        seen = rasterize(vertices, faces, CAMERAS, 24)
        face, bary, depth, close = traced(vertices, faces, CAMERAS, 24)
        assert close.float().mean() < 0.01 and torch.equal(seen.face[~close], face[~close])
        hit = (face >= 0) & ~close
        assert hit.float().mean() > 0.1 and (seen.bary - bary)[hit].abs().max() < 1e-3  # edge-on
        assert (depth_of(seen) - depth)[hit].abs().max() < 1e-4
        places = seen.interpolate(vertices)[hit]
        assert torch.allclose(places.double(), (bary[..., None] * vertices.double()[faces[face]]).sum(-2)[hit], atol=2e-4)
        assert (seen.bary[seen.face < 0] == 0).all() and (seen.interpolate(vertices)[seen.face < 0] == 0).all()


def test_barycentrics_on_the_screen_alone_would_be_another():
    """Without the division by z the law above fails: perspective matters in these pictures."""
    vertices, faces = soup(12, seeded(0))
    seen = rasterize(vertices, faces, CAMERAS, 24)
    corner = seen.screen[0][faces[seen.face[0].clamp(min=0)]][..., 2]
    flat = seen.bary[0] * corner
    assert (flat / flat.sum(-1, keepdim=True).clamp(min=1e-9) - seen.bary[0]).abs().max() > 0.05


def test_shared_edges_leave_no_crack_and_no_double():
    """A disc of triangles around a point, its corners anywhere, edges through pixel centres too: inside it each pixel sees one
    face and only one, so that what a face covers alone adds up to the whole."""
    for seed in range(8):
        angle = torch.rand(9, generator=seeded(seed)).sort().values * 2 * torch.pi
        angle = torch.linspace(0, 2 * torch.pi, 9)[:-1] if seed == 0 else angle
        rim = 0.7 * torch.stack([torch.zeros_like(angle), angle.cos(), angle.sin()], -1)
        vertices, k = torch.cat([torch.zeros(1, 3), rim]), torch.arange(len(angle))
        faces = torch.stack([torch.zeros_like(k), 1 + k, 1 + (k + 1) % len(k)], 1)
        screen = project(vertices, camera := orbit(0.0, 0.0), 33)
        whole = visible(screen, faces, 33)[0] >= 0
        each = torch.stack([visible(screen, face[None], 33)[0] >= 0 for face in faces])
        assert torch.equal(each.any(0), whole) and whole.sum() > 100
        inner = whole.float()
        _, bary, _, close = traced(vertices, faces, camera, 33)
        assert (each.sum(0)[whole & ~close[0]] == 1).all()
        crack = (inner[1:-1, :-2] * inner[1:-1, 2:] * inner[:-2, 1:-1] * inner[2:, 1:-1] > 0) & ~whole[1:-1, 1:-1]
        assert not crack.any()


def test_both_sides_and_any_order_are_seen(generator):
    vertices, faces = soup(12, generator)
    seen = rasterize(vertices, faces, CAMERAS, 24)
    turned = rasterize(vertices, faces.flip(1), CAMERAS, 24)
    assert torch.equal(turned.face, seen.face) and torch.allclose(turned.bary.flip(-1), seen.bary)
    back = rasterize(vertices, faces.flip(0), CAMERAS, 24)
    assert torch.equal(torch.where(back.face >= 0, len(faces) - 1 - back.face, -1), seen.face)


def test_cameras_at_once_are_each_camera_alone(generator):
    vertices, faces = soup(30, generator, dtype=torch.float32)
    cameras, values = ring(5), torch.rand(90, 2, generator=generator)
    seen = rasterize(vertices, faces, cameras, 20)
    both = antialias(seen.interpolate(values), seen)
    for i in range(5):
        one = rasterize(vertices, faces, cameras[i:i + 1], 20)
        assert torch.equal(one.face[0], seen.face[i])
        assert torch.allclose(antialias(one.interpolate(values), one)[0], both[i], atol=1e-6)


def test_pictures_stay_between_what_they_are_mixed_of(generator):
    for dtype in (torch.float32, torch.float64):
        vertices, faces = soup(40, generator, dtype=dtype)
        seen = rasterize(vertices, faces, CAMERAS, 32)
        picture = antialias(seen.interpolate(torch.rand(120, 3, generator=generator, dtype=dtype)), seen)
        assert picture.min() >= -1e-6 and picture.max() <= 1 + 1e-6 and picture.dtype == dtype
        whole = antialias(torch.ones_like(picture), seen)
        assert torch.allclose(whole, torch.ones_like(whole), atol=1e-6)  # a mixture's weights add up to 1


def test_no_faces_and_faces_without_area_show_nothing():
    vertices = torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0.5, 0], [0, 0, 0]], requires_grad=True)
    for faces in (torch.zeros(0, 3, dtype=torch.long), torch.tensor([[0, 1, 2], [0, 3, 1], [2, 2, 2]])):
        for cameras in (orbit([0.0, 40.0], 0.0), ring(2)):
            seen = rasterize(vertices, faces, cameras, 16)
            picture = antialias(seen.interpolate(torch.ones(4, 1)), seen)
            assert (seen.face == -1).all() and (picture == 0).all()
            gradient, = torch.autograd.grad(picture.sum() + 0 * vertices.sum(), vertices)
            assert (gradient == 0).all()
    seen = rasterize(vertices[:0], faces[:0], CAMERAS, 16)
    assert (antialias(seen.interpolate(vertices[:0]), seen) == 0).all()


def test_what_comes_too_near_or_lies_behind_is_left_out():
    """Faces before the camera stay as they are beside one behind it, one through its plane, and one nearer than NEAR."""
    camera = orbit(0.0, 0.0, 2.0)  # at x = 2, looking to -x
    square = torch.tensor([[0.0, -0.3, -0.3], [0, 0.3, -0.3], [0, 0.3, 0.3]])
    behind, through = square + torch.tensor([3.0, 0, 0]), square.clone()
    through[0, 0] = 2.5
    touching = 0.01 * square + torch.tensor([2 - module.NEAR / 2, 0, 0])
    alone = rasterize(square, torch.arange(3)[None], camera, 20)
    for other in (behind, through, touching):
        vertices = torch.cat([other, square]).requires_grad_()
        both = rasterize(vertices, torch.arange(6).view(2, 3), camera, 20)
        assert torch.equal(both.face >= 0, alone.face >= 0) and (both.face[both.face >= 0] == 1).all()
        picture = antialias((both.face >= 0).float()[..., None], both)
        assert torch.allclose(picture, antialias((alone.face >= 0).float()[..., None], alone), atol=1e-6)
        gradient, = torch.autograd.grad(picture.square().sum(), vertices)
        assert gradient.isfinite().all() and (gradient[:3] == 0).all() and gradient[3:].abs().sum() > 0


@pytest.mark.parametrize("index", [-1, 3])
def test_faces_of_no_vertex_are_refused(index):
    with pytest.raises(ValueError, match=r"faces index the 3 vertices, got -?\d to \d: give others"):
        rasterize(torch.zeros(3, 3), torch.tensor([[0, 1, index]]), CAMERAS, 8)


# Gradients.


def test_gradcheck():
    """Of attributes and of silhouettes, where no vertex passes a pixel's centre within the step."""
    vertices = torch.tensor([[0.0, -0.52, -0.43], [0.11, 0.57, -0.36], [-0.2, 0.12, 0.61], [0.5, 0.3, 0.35]]).double()
    faces, values = torch.tensor([[0, 1, 2], [1, 3, 2]]), torch.rand(4, 2, generator=seeded(1), dtype=torch.float64)

    def picture(vertices, values):
        seen = rasterize(vertices, faces, CAMERAS[:1], 7)
        return antialias(seen.interpolate(values), seen)

    def shares(vertices):
        return module.crossings(rasterize(vertices, faces, CAMERAS[:1], 7))[2]

    inputs = vertices.requires_grad_(), values.requires_grad_()
    assert torch.autograd.gradcheck(lambda v, c: rasterize(v, faces, CAMERAS[:1], 7).interpolate(c), inputs)
    assert torch.autograd.gradcheck(shares, inputs[:1]) and len(shares(vertices)) > 5
    assert torch.autograd.gradcheck(lambda c: picture(vertices.detach(), c), inputs[1:])


def ball(cells, moved=0.45):
    """A sphere by marching tetrahedra whose corners were moved: slivers, folded over in places."""
    places, cell = lattice(cells + 1, 0.8), 1.6 / cells
    places = places + moved * cell * (2 * torch.rand(places.shape, generator=seeded(0)) - 1)
    return marching_tetrahedra(places.norm(dim=-1) - 0.6, places)


def weighed(covered):
    """The mean of what is covered, with weights that rise across the picture."""
    y, x = torch.meshgrid(*[(torch.arange(covered.shape[1]) + 0.5) / covered.shape[1]] * 2, indexing="ij")
    return (covered * (1 + 0.5 * x - 0.3 * y)).mean()


def slope(vertices, faces, cameras, resolution, scale):
    """d weighed coverage / d s for vertices (1 + s scale), through the pictures."""
    s = torch.zeros((), requires_grad=True)
    seen = rasterize(vertices * (1 + s * scale), faces, cameras, resolution)
    covered = antialias((seen.face >= 0).float()[..., None], seen)[..., 0]
    return torch.autograd.grad(weighed(covered), s)[0].item()


def slope_by_differences(vertices, faces, cameras, resolution, scale, h=0.01):
    low, high = (weighed((visible(project(vertices * (1 + s * scale), cameras, resolution), faces, resolution) >= 0).float())
                 for s in (-h, h))
    return ((high - low) / (2 * h)).item()


SIZES = {"ten pixels": (4, 32, 4), "half a pixel, folded": (16, 12, 16), "a tenth of a pixel": (64, 8, 40)}
ALONG = {"all": (1.0, 1.0, 1.0), "z": (0.0, 0.0, 1.0)}
VIEWS = Orbit((-30.0, 50.0), (2.3, 2.6), (38.0, 44.0), aim=0.05, roll_deg=30.0)


@pytest.fixture(scope="module")
def measured():
    """For each size of triangle: mesh, cameras, resolution, and the slopes by differences at 16 times the resolution."""
    found = {}
    for name, (cells, resolution, views) in SIZES.items():
        mesh, cameras = ball(cells), VIEWS.sample(views, seeded(3))
        found[name] = mesh, cameras, resolution, {
            along: slope_by_differences(*mesh, cameras, 16 * resolution, torch.tensor(ALONG[along])) for along in ALONG}
    return found


@pytest.mark.parametrize("name", SIZES)
def test_silhouettes_have_the_gradient_of_the_area(name, measured):
    mesh, cameras, resolution, true = measured[name]
    for along, expected in true.items():
        found = slope(*mesh, cameras, resolution, torch.tensor(ALONG[along]))
        print(name, along, found / expected - 1)
        assert found == pytest.approx(expected, rel=0.03), along


@pytest.mark.parametrize("shift", [0.0, 1e-3, 0.25])
def test_silhouettes_through_pixel_centres_are_drawn_once(shift):
    """A square whose sides pass exactly through centres covers what it covers, and each of its sides has its gradient."""
    R, cameras = 32, orbit([0.0], [0.0], 2.0, 2 * torch.rad2deg(torch.tensor(0.5).atan()).item())  # 16 pixels a world unit
    low, high = (torch.tensor([8.5 + shift, 8.5, 20.5 + shift, 20.5]).view(2, 2) - R / 2) / 16
    y, z = (torch.tensor([low[0], high[0], high[0], low[0]]), -torch.tensor([low[1], low[1], high[1], high[1]]))
    vertices = torch.stack([torch.zeros(4), y, z], -1).requires_grad_()
    seen = rasterize(vertices, torch.tensor([[0, 1, 2], [0, 2, 3]]), cameras, R)
    area = antialias((seen.face >= 0).float()[..., None], seen).sum()
    assert area.item() == pytest.approx(12 * 12, abs=0.5)
    gradient, = torch.autograd.grad(area, vertices)
    assert torch.allclose(gradient[:, 1].abs(), torch.tensor(6 * 16.0), rtol=0.1)  # half of a side of 12 pixels each
    assert torch.allclose(gradient[:, 2].abs(), torch.tensor(6 * 16.0), rtol=0.1)


@pytest.mark.parametrize("fault", ["any crossing", "both ways at once", "across"])
def test_a_wrong_silhouette_is_seen(fault, measured, monkeypatch):
    """In the middle size, of folded slivers, or in the smallest."""
    if fault == "any crossing":
        monkeypatch.setattr(module, "pack", lambda value, index: index)
    elif fault == "both ways at once":
        real = module.pairs
        monkeypatch.setattr(module, "pairs", lambda *args: (*(x := real(*args))[:3], torch.ones_like(x[3])))
    else:
        real = module.courses
        monkeypatch.setattr(module, "courses", lambda *args: real(*args).flip(1))
    off = []
    for mesh, cameras, resolution, true in measured.values():
        off += [slope(*mesh, cameras, resolution, torch.tensor(ALONG[along])) / slope_ - 1 for along, slope_ in true.items()]
    print(fault, off)
    assert max(map(abs, off)) > 0.03


def test_a_square_moves_onto_a_target():
    """By plain descent through the silhouettes, from where it covers a third of it, to a hundredth of a pixel."""
    camera, faces = orbit(0.0, 0.0), torch.tensor([[0, 1, 2], [0, 2, 3]])
    square = 0.3 * torch.tensor([[0.0, -1, -1], [0, 1, -1], [0, 1, 1], [0, -1, 1]])

    def picture(shift):
        seen = rasterize(square + torch.cat([shift.new_zeros(1), shift]), faces, camera, 32)
        return antialias((seen.face >= 0).float()[..., None], seen)

    wanted = torch.tensor([0.217, -0.143])
    target, shift = picture(wanted), torch.zeros(2, requires_grad=True)
    optimiser = torch.optim.Adam([shift], 0.02)
    for step in range(120):
        optimiser.param_groups[0]["lr"] = 0.02 * 0.96**step
        optimiser.zero_grad()
        (picture(shift) - target).square().mean().backward()
        optimiser.step()
    assert (shift - wanted).abs().max() < 0.01 * 2 * 2.4 * 0.364 / 32


@pytest.mark.skipif(not (torch.cuda.is_available() and find_spec("nvdiffrast")), reason="nvdiffrast draws on CUDA only")
def test_equals_nvdiffrast_on_cuda(generator):
    """Edges may fall to the other pixel, and its silhouettes are another estimate: means are compared."""
    (vertices, faces), values = ball(16, 0.0), torch.rand(5000, 3, generator=generator)
    here, there = vertices.requires_grad_(), vertices.detach().cuda().requires_grad_()
    pictures = []
    for place in (here, there):
        seen = rasterize(place, faces.to(place.device), CAMERAS, 64)
        picture = antialias(seen.interpolate(values[:len(place)].to(place.device)), seen)
        picture.sum().backward()
        pictures.append((seen, picture))
    (ours, mine), (theirs, other) = pictures
    assert (ours.face == theirs.face.cpu()).float().mean() > 0.99
    same = (ours.face == theirs.face.cpu()) & (ours.face >= 0)
    assert (ours.bary - theirs.bary.cpu())[same].abs().max() < 1e-2
    assert (mine - other.cpu()).abs().mean() < 5e-3
    grown = [(g * x).sum().item() for g, x in ((here.grad, here), (there.grad.cpu(), here))]
    assert grown[0] == pytest.approx(grown[1], rel=0.05)
