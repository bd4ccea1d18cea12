"""Meshes: marching tetrahedra against closed forms, for any places of the corners, and what is asked of a mesh."""
import math

import pytest
import torch
import torch.nn.functional as F

from benchmarks.bench_splat import exponent
from dreamlab import mesh as module
from dreamlab.mesh import (
    CASES,
    COUNTS,
    KUHN,
    Mesh,
    cut,
    euler,
    face_normals,
    large,
    lattice,
    marching_tetrahedra,
    pieces,
    sample,
    solid,
    vertex_normals,
    volume,
    watertight,
)

BOUND = 0.8


def sphere(p, radius=0.6, centre=(0.0, 0.0, 0.0)):
    return (p - p.new_tensor(centre)).norm(dim=-1) - radius


def torus(p, up=0.0, major=0.45, minor=0.18):
    across = p[..., :2].norm(dim=-1) - major
    return (across**2 + (p[..., 2] - up) ** 2).sqrt() - minor


def tori(p):
    return torch.minimum(torus(p, -0.35), torus(p, 0.35))


RING = 2 * math.pi**2 * 0.45 * 0.18**2
SOLIDS = {"sphere": (sphere, 2, 4 / 3 * math.pi * 0.6**3), "torus": (torus, 0, RING), "two tori": (tori, 0, 2 * RING)}
solids = pytest.mark.parametrize("name", SOLIDS)


def grid(n, moved=0.0, seed=0):
    """Places of n³ corners, each moved by up to a part of a cell along each axis; and the cell."""
    places, cell = lattice(n, BOUND).double(), 2 * BOUND / (n - 1)
    shift = 2 * torch.rand(places.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1
    return places + moved * cell * shift, cell


def made(values, places):
    vertices, faces = marching_tetrahedra(values, places)
    return Mesh(vertices, faces, torch.zeros_like(vertices))


def turned(faces):
    """Triangles as sets of cycles."""
    return {tuple(f[(i := f.index(min(f))):] + f[:i]) for f in faces.tolist()}


# Marching tetrahedra.


def test_a_cube_is_six_tetrahedra_that_turn_one_way():
    corners = KUHN.double()
    assert torch.allclose(torch.linalg.det(corners[:, 1:] - corners[:, :1]), torch.ones(6).double())  # six of volume 1/6
    keys = KUHN @ torch.tensor([4, 2, 1])
    sides = [tuple(sorted(f)) for tet in keys.tolist() for f in ([*tet[:i], *tet[i + 1:]] for i in range(4))]
    outer = [f for f in set(sides) if sides.count(f) == 1]
    assert len(outer) == 12 and all(sides.count(f) <= 2 for f in sides)
    sides_of_cube = [{f for f in outer if all((c >> axis & 1) == at for c in f)} for axis in range(3) for at in (0, 1)]
    assert [len(s) for s in sides_of_cube] == [2] * 6
    for axis in range(3):  # what one side of the cube is cut into, the opposite one is too: neighbours fit
        low, high = sides_of_cube[2 * axis:2 * axis + 2]
        assert {tuple(c | 1 << axis for c in f) for f in low} == high


def patches(case):
    """The triangles of a case, each of three edges (pairs of corners)."""
    return [[tuple(sorted(edge)) for edge in triangle] for triangle in CASES[case, :COUNTS[case]].tolist()]


def check_table():
    """All 16: inside corners behind, outside ones in front; one segment in each of the four faces that are cut; and a case
    and its complement are each other turned round."""
    tet = torch.cat([torch.zeros(1, 3), torch.eye(3)])
    for case in range(16):
        inside = [bool(case >> i & 1) for i in range(4)]
        triangles = patches(case)
        assert len(triangles) == [0, 1, 2, 1, 0][sum(inside)]
        segments = set()
        for triangle in triangles:
            assert len(set(triangle)) == 3 and all(inside[i] != inside[j] for i, j in triangle)
            p, q, r = (tet[list(edge)].mean(0) for edge in triangle)
            away = (tet - p) @ torch.linalg.cross(q - p, r - p)
            assert all((height < 0) == where for height, where in zip(away.tolist(), inside, strict=True))
            for a, b in zip(triangle, triangle[1:] + triangle[:1], strict=True):
                segments ^= {(b, a)} if (b, a) in segments else {(a, b)}  # the diagonal of a quadrilateral goes
        faces = [[i for i in range(4) if i != left] for left in range(4)]
        assert sorted(tuple(sorted({*a, *b})) for a, b in segments) == sorted(
            tuple(f) for f in faces if 0 < sum(inside[i] for i in f) < 3)
        name = {edge: k for k, edge in enumerate(sorted({e for t in triangles for e in t}))}
        there, back = ([[name[e] for e in t] for t in patches(c)] for c in (case, 15 - case))
        assert turned(torch.tensor(there)) == turned(torch.tensor([t[::-1] for t in back]))


def test_the_table_of_cases():
    check_table()


@pytest.mark.parametrize("fault", ["turned", "another diagonal", "another corner", "one less"])
def test_a_wrong_table_is_seen(fault, monkeypatch):
    """By the law above and by the surfaces below."""
    table, counts = CASES.clone(), COUNTS.clone()
    if fault == "turned":
        table[3, 0] = table[3, 0].flip(0)
    elif fault == "another diagonal":
        a, b, c, d = (table[3, 0, 0], table[3, 0, 1], table[3, 0, 2], next(
            edge for edge in table[3, 1] if not (table[3, 0] == edge).all(1).any()))
        table[3] = torch.stack([torch.stack([a, b, c]), torch.stack([b, c, d])])
    elif fault == "another corner":
        table[1, 0, 0] = torch.tensor([1, 2])
    else:
        counts[3] = 1
    for target in (module, __import__(__name__)):
        monkeypatch.setattr(target, "CASES", table)
        monkeypatch.setattr(target, "COUNTS", counts)
    with pytest.raises(AssertionError):
        check_table()
    places, _ = grid(21)
    found = made(sphere(places), places)
    assert not (watertight(found) and math.isclose(volume(found), SOLIDS["sphere"][2], rel_tol=0.02))


@solids
@pytest.mark.parametrize("moved", [0.0, 0.25, 0.45])
def test_surfaces_are_closed_turned_outwards_and_where_they_should_be(name, moved):
    """Moved by 0.45 of a cell a tetrahedron may be turned inside out, and a handle may come with it: no Euler number then."""
    field, number, _ = SOLIDS[name]
    for n in (21, 33):
        places, cell = grid(n, moved, seed=n)
        found = made(field(places), places)
        assert watertight(found) and volume(found) > 0
        assert moved > 0.25 or euler(found) == number
        assert len(pieces(found.faces, len(found.vertices)).unique()) == (2 if name == "two tori" else 1)
        assert field(found.vertices).abs().max() < 0.5 * cell  # measured: 0.36
        assert field(found.vertices[found.faces].mean(1)).abs().max() < 0.5 * cell
        same = made(field(grid(n)[0]), places)  # the signs alone say how the surface is connected
        assert watertight(same) and euler(same) == number and volume(same) > 0


def errors(name, moved=0.0, change=lambda values: values):
    field, _, truth = SOLIDS[name]
    found = [made(change(field(p)), p) for p in (grid(n, moved)[0] for n in (17, 25, 37, 49))]
    return exponent([1 / 16, 1 / 24, 1 / 36, 1 / 48], [abs(volume(m).item() - truth) for m in found])


@solids
def test_the_volumes_error_falls_with_the_square_of_the_cell(name):
    assert errors(name) == pytest.approx(2, abs=0.15)
    assert errors(name, 0.45) == pytest.approx(2, abs=0.3)


def test_vertices_at_the_middles_of_edges_are_off_by_more():
    """What holds above is what the interpolation does: with the values' signs alone the surface is not smooth."""
    places, cell = grid(33)
    middle = made(sphere(places).sign(), places)
    assert watertight(middle) and euler(middle) == 2 and sphere(middle.vertices).abs().max() > 0.5 * cell


def test_no_surface_where_there_is_none():
    places, _ = grid(7)
    for value in (1.0, 0.0, -1.0):  # outside, on it all over, inside
        vertices, faces = marching_tetrahedra(torch.full(places.shape[:3], value).double(), places)
        assert vertices.shape == (0, 3) and faces.shape == (0, 3) and not watertight(Mesh(vertices, faces, vertices))
    assert not large(faces, 0).any() and cut(vertices, faces)[0].shape == (0, 3)


def test_a_surface_that_leaves_the_grid_is_open():
    places, _ = grid(21)
    assert not watertight(made(sphere(places, 0.9), places))
    assert watertight(made(sphere(places, 0.75), places))


def test_values_of_zero_are_outside():
    """A cube whose faces go through corners of the grid is closed and has finite gradients; where a whole tetrahedron is 0,
    at some of its edges, it loses that, and a little less than 0 gives it back."""
    places = lattice(9, 1.0).double()
    values = (places.abs().amax(-1) - 0.5).requires_grad_()
    assert (values == 0).any()
    found = made(values, places)
    assert watertight(found) and euler(found) == 2 and 0.8 < volume(found) < 1
    assert torch.autograd.grad(volume(found), values)[0].isfinite().all()
    assert volume(made(values - 1e-9, places)).item() == pytest.approx(1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(value):
    places, _ = grid(5)
    values = sphere(places)
    values[1, 2, 3] = value
    with pytest.raises(ValueError, match="the field has 1 of 125 values that are not finite: give finite ones"):
        marching_tetrahedra(values, places)


def test_gradcheck(generator):
    values = torch.randn(3, 3, 4, generator=generator, dtype=torch.float64)
    values = (values + 0.2 * values.sign()).requires_grad_()  # no sign changes within the step
    places = torch.randn(3, 3, 4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v, p: marching_tetrahedra(v, p)[0], (values, places))


def test_a_surface_moves_against_its_values():
    """dV / d value summed over the corners is minus the area: a field that is raised everywhere shrinks the ball."""
    places, _ = grid(33)
    values = sphere(places).requires_grad_()
    slope = torch.autograd.grad(volume(made(values, places)), values)[0].sum()
    assert slope.item() == pytest.approx(-4 * math.pi * 0.6**2, rel=0.01)


# What is asked of a mesh.


@pytest.fixture
def tetrahedron():
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    return Mesh(vertices, torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]), vertices)


def test_watertight_means_each_side_once_and_its_reverse_once(tetrahedron):
    faces = tetrahedron.faces
    with_faces = lambda f: watertight(Mesh(tetrahedron.vertices, f, tetrahedron.colours))  # noqa: E731
    assert with_faces(faces) and with_faces(faces.flip(1)) and with_faces(faces.roll(1, 1))
    assert not with_faces(faces[:3])  # a hole
    assert not with_faces(torch.cat([faces[:3], faces[3:].flip(1)]))  # one looks inwards
    assert not with_faces(torch.cat([faces, faces]))  # two in one place
    assert not with_faces(torch.cat([faces, faces[:1]])) and not with_faces(torch.cat([faces, faces[:1], faces[:1].flip(1)]))
    assert not with_faces(faces[:0])


def test_volume_and_area_are_the_closed_forms(tetrahedron):
    m = tetrahedron
    inside_out = Mesh(m.vertices, m.faces.flip(1), m.colours)
    assert volume(m).item() == pytest.approx(1 / 6) and volume(inside_out).item() == pytest.approx(-1 / 6)
    assert volume(Mesh(m.vertices + 3, m.faces, m.colours)).item() == pytest.approx(1 / 6, abs=1e-4)
    normals = face_normals(m.vertices, m.faces)
    assert torch.equal(normals, torch.tensor([[0.0, 0, -1], [0, -1, 0], [-1, 0, 0], [1, 1, 1]]))
    twice = torch.cat([m.vertices, m.vertices])
    assert euler(m) == 2 and euler(Mesh(twice, m.faces, twice)) == 2  # vertices of no face do not count


def test_floaters_are_less_than_their_share_of_the_faces():
    places = lattice(41, BOUND)
    field = torch.stack([sphere(places, r, c) for r, c in
                         ((0.4, (-0.3, 0.0, 0.0)), (0.2, (0.5, 0.0, 0.0)), (0.03, (0.52, 0.52, 0.52)))]).amin(0)
    vertices, faces = marching_tetrahedra(field, places)
    label = pieces(faces, len(vertices))
    assert len(label.unique()) == 3 and all(v in faces[label == v] for v in label.unique())
    sizes = label.unique(return_counts=True)[1].sort(descending=True).values
    assert sizes[2] < 0.01 * len(faces) < sizes[1] < 0.3 * len(faces)
    for least, left in ((0.0, 3), (0.01, 2), (0.3, 1)):
        kept, those = cut(vertices, faces[large(faces, len(vertices), least)])
        assert len(those) == sizes[:left].sum() and watertight(Mesh(kept, those, kept))
        assert euler(Mesh(kept, those, kept)) == 2 * left and torch.equal(those.unique(), torch.arange(len(kept)))
        if left < 3:
            assert kept[:, 1].max() < 0.45


def test_a_long_strip_is_one_piece():
    i = torch.arange(999)
    strip = torch.stack([i, i + 1, i + 2], 1)
    order = torch.randperm(1001, generator=torch.Generator().manual_seed(0))
    assert len(pieces(order[strip], 1001).unique()) == 1
    assert len(pieces(order[strip[torch.cat([i[:500], i[502:]])]], 1001).unique()) == 2


def test_normals_of_a_sphere_are_its_radii():
    places, _ = grid(33)
    ball = made(sphere(places, 0.61), places)  # at 0.6 some triangles have no area to speak of
    normals = vertex_normals(ball.vertices, ball.faces)
    assert torch.allclose(normals.norm(dim=-1), torch.ones(len(normals)).double())
    cosine = (normals * F.normalize(ball.vertices, dim=-1)).sum(-1)
    assert cosine.min() > 0.97 and cosine.mean() > 0.999
    assert (vertex_normals(ball.vertices, ball.faces.flip(1)) + normals).abs().max() < 1e-12
    flat = torch.zeros(3, 3, requires_grad=True)
    none = vertex_normals(flat, torch.tensor([[0, 1, 2]]))
    assert (none == 0).all() and torch.autograd.grad(none.sum(), flat)[0].isfinite().all()


def test_samples_lie_evenly_on_the_surface_with_its_colours(tetrahedron, generator):
    places = lattice(33, BOUND)
    vertices, faces = marching_tetrahedra(sphere(places), places)
    points, colours = sample(Mesh(vertices, faces, vertices), 20_000, generator)
    assert sphere(points).abs().max() < 0.01 and torch.allclose(points, colours)  # colours that are the places
    assert points.mean(0).abs().max() < 0.01 and (points.square().mean(0) - 0.12).abs().max() < 0.005  # r² / 3 along each axis
    on, _ = sample(tetrahedron, 40_000, generator)
    share = [(on[:, axis] < 1e-7).float().mean().item() for axis in range(3)]
    assert share == pytest.approx([0.5 / (1.5 + 3**0.5 / 2)] * 3, abs=0.02)
    bottom = on[on[:, 2] < 1e-7]
    assert bottom.mean(0)[:2].tolist() == pytest.approx([1 / 3] * 2, abs=0.02)  # the middle of a triangle
    again = [sample(tetrahedron, 9, torch.Generator().manual_seed(1))[0] for _ in range(2)]
    assert torch.equal(*again)
    for faces in (tetrahedron.faces[:0], torch.tensor([[0, 0, 1]])):
        with pytest.raises(ValueError, match=f"a mesh of {len(faces)} triangles and area 0 has no surface to draw points from"):
            sample(Mesh(tetrahedron.vertices, faces, tetrahedron.colours), 5, generator)


@pytest.mark.parametrize("n", [2, 5])
def test_the_lattice_has_its_borders(n):
    places = lattice(n, 0.7)
    assert places.shape == (n, n, n, 3) and places[0, 0, 0].tolist() == pytest.approx([-0.7] * 3)
    assert torch.equal(places[-1, 0, 0], places.new_tensor([0.7, -0.7, -0.7]))


def test_closed_cavities_are_solid_and_open_ones_stay():
    """A hollow ball becomes a ball; with a hole through its wall it stays hollow."""
    places = lattice(24, 1.0)
    r = places.norm(dim=-1)
    hollow = (r - 0.55).abs() - 0.2
    assert torch.equal(solid(hollow) < 0, r < 0.75)
    drilled = torch.where((places[..., :2].norm(dim=-1) < 0.2) & (places[..., 2] > 0), 0.3, hollow)
    assert torch.equal(solid(drilled), drilled)
