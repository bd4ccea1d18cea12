"""Volume rendering and the hash grid: closed forms, nerfacc, finite differences, dense grids."""
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from dreamlab.cameras import orbit, ring
from dreamlab.methods import METHODS
from dreamlab.noise import seeded
from dreamlab.priors.mixture import ImageMixturePrior
from dreamlab.prompts import Prompt
from dreamlab.render.volume import Occupancy, inside_ball, occupied, volume, weights, within
from dreamlab.rules import SDS, VDM
from dreamlab.scenes import load
from dreamlab.scenes.nerf import HashGrid, NeRF, through
from dreamlab.schedules import Annealed
from dreamlab.stage import Stage, run


def rays(*shape: int, dtype=torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Densities and spacings of some rays."""
    g = torch.Generator().manual_seed(0)
    return 5 * torch.rand(*shape, generator=g, dtype=dtype), 0.02 + 0.1 * torch.rand(*shape, generator=g, dtype=dtype)


# Compositing.


@pytest.mark.parametrize("samples", [1, 7, 64])
def test_constant_density_is_the_closed_form(samples):
    density, length = 3.0, 0.8
    w = weights(*(torch.full((samples,), v, dtype=torch.float64) for v in (density, length / samples)))
    assert w.sum().item() == pytest.approx(1 - math.exp(-density * length), abs=1e-12)
    edges = torch.linspace(0, length, samples + 1, dtype=torch.float64)
    torch.testing.assert_close(w, torch.exp(-density * edges[:-1]) - torch.exp(-density * edges[1:]), atol=1e-12, rtol=0)


def test_weights_agree_with_nerfacc():
    nerfacc = pytest.importorskip("nerfacc")
    density, delta = (x.float() for x in rays(64, 48))
    ends = delta.cumsum(-1)
    theirs, _, _ = nerfacc.render_weight_from_density(ends - delta, ends, density)
    torch.testing.assert_close(weights(density, ends - (ends - delta)), theirs, atol=1e-6, rtol=0)


def test_gradients_agree_with_finite_differences():
    density, delta = rays(3, 9)
    assert torch.autograd.gradcheck(weights, (density.requires_grad_(), delta.requires_grad_()))


def test_an_opaque_front_hides_the_rest():
    w = weights(torch.tensor([0.0, 1e4, 5.0]), torch.tensor([0.1, 0.1, 0.1]))
    assert w[0] == 0 and w[1] > 0.9999 and w[2] < 1e-6


def test_a_ball_of_constant_density_has_the_depth_and_cover_of_its_chord():
    density, radius = 4.0, 0.5

    def field(points):
        return torch.full((len(points),), density), torch.tensor([0.2, 0.4, 0.6]).expand(len(points), 3)

    camera = orbit([30.0], [20.0], [2.4])
    seen = volume(field, camera, 33, torch.ones(3), samples=200, radius=radius)
    alpha = 1 - math.exp(-density * 2 * radius)
    assert seen.alpha[0, 16, 16].item() == pytest.approx(alpha, abs=1e-4)
    expected = torch.tensor([0.2, 0.4, 0.6]) * alpha + (1 - alpha)
    torch.testing.assert_close(seen.rgb[0, 16, 16], expected, atol=1e-4, rtol=0)
    mean = 2.4 - radius + 1 / density - 2 * radius * (1 - alpha) / alpha  # of exp(-density s) on the chord
    assert seen.depth[0, 16, 16].item() == pytest.approx(mean, abs=1e-3)
    assert seen.alpha[0, 0, 0] == 0 and seen.rgb[0, 0, 0].tolist() == [1.0, 1.0, 1.0]


def test_rays_meet_the_ball_where_they_should():
    origins = torch.tensor([[2.0, 0, 0], [2.0, 0, 0], [0.0, 0, 0], [2.0, 0, 0]])
    directions = F.normalize(torch.tensor([[-1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]]), dim=-1)
    near, far = inside_ball(origins, directions, 0.5)
    torch.testing.assert_close(near, torch.tensor([1.5, 0, 0, 0]))
    torch.testing.assert_close(far, torch.tensor([2.5, 0, 0.5, 0]))


def test_jitter_comes_from_its_generator():
    nerf = NeRF(HashGrid(2, 2, 2**12, 4, 2.0), hidden=8, samples=8)
    a, b, c = (nerf.render(ring(1), 8, torch.ones(3), torch.Generator().manual_seed(s)).rgb for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize("bad", [{"resolution": 0}, {"samples": 0}, {"background": torch.ones(2, 3)}])
def test_bad_sizes_are_named(bad):
    field = NeRF(HashGrid(1, 1, 64, 2)).field
    with pytest.raises(ValueError, match="got"):
        volume(field, ring(3), **({"resolution": 8, "background": torch.ones(3)} | bad))


# Leaving out what nobody would see.


@pytest.fixture
def kernels(monkeypatch):
    """nerfacc's CUDA kernels for packed samples, as it documents them, in torch: all of the path but these runs on a CPU."""
    pytest.importorskip("nerfacc")
    from nerfacc import volrend
    from nerfacc.estimators import occ_grid

    def pack_info(ray, n_rays):
        counts = torch.bincount(ray, minlength=n_rays)
        return torch.stack([counts.cumsum(0) - counts, counts], -1)

    def exclusive_sum(x, packed_info):
        return torch.cat([part.cumsum(0) - part for part in x.split(packed_info[:, 1].tolist())])

    def traverse_grids(origins, directions, binaries, aabbs, near_planes, far_planes, step_size, cone_angle):
        places = torch.arange(int(((far_planes - near_planes) / step_size).max()) + 2) + 0.5
        middle = near_planes[:, None] + places * step_size
        points = origins[:, None] + middle[..., None] * directions[:, None]
        cell = ((points - aabbs[0, :3]) / (aabbs[0, 3:] - aabbs[0, :3]) * binaries.shape[1]).floor().long()
        inside = ((cell >= 0) & (cell < binaries.shape[1])).all(-1) & (middle < far_planes[:, None])
        taken = binaries[0][cell.clamp(0, binaries.shape[1] - 1).unbind(-1)] & inside
        ray = taken.nonzero()[:, 0]
        edges = (middle[taken][:, None] + step_size * torch.tensor([-0.5, 0.5])).flatten()
        left = torch.tensor([True, False]).repeat(len(ray))
        samples = SimpleNamespace(ray_indices=ray, packed_info=pack_info(ray, len(origins)))
        return SimpleNamespace(vals=edges, is_left=left, is_right=~left), samples, None

    monkeypatch.setattr(volrend, "pack_info", pack_info)
    monkeypatch.setattr(volrend, "exclusive_sum", exclusive_sum)
    monkeypatch.setattr(occ_grid, "traverse_grids", traverse_grids)


def blob(samples=200, **settings) -> NeRF:
    """A field whose density rises from nothing to 20 within a shell, and whose colours vary."""
    nerf = NeRF(HashGrid(3, 2, 2**12, 4, 2.0, seeded(0)), hidden=8, samples=samples, generator=seeded(0), **settings)
    with torch.no_grad():
        for table in nerf.grid.tables:
            table.normal_(generator=seeded(1))
    return nerf


def with_grid(nerf: NeRF, **settings) -> NeRF:
    nerf.occupancy = Occupancy(nerf.density, nerf.radius, nerf.samples, torch.device("cpu"), cells=32, **settings)
    return nerf


def compared(one: NeRF, two: NeRF, resolution=20):
    """Two renders of fields that must not differ, and the gradients of the same loss in both."""
    out = []
    for nerf in (one, two):
        device = nerf.grid.tables[0].device
        render = nerf.render(orbit([20.0, 130.0], [10.0, -30.0], 2.2), resolution, torch.tensor([0.2, 0.5, 0.9]))
        loss = render.rgb.square().sum() + (render.depth * render.alpha).sum()
        gradients = dict(zip(nerf.parameters(), torch.autograd.grad(loss, [*nerf.parameters().values()]), strict=True))
        assert render.rgb.device == device
        out.append((render, {name: g.cpu() for name, g in gradients.items()}))
    return out


def assert_the_same(one, two):
    (a, a_grad), (b, b_grad) = one, two
    for name, tolerance in (("rgb", 0.01), ("alpha", 0.01), ("depth", 0.02)):
        error = (getattr(a, name) - getattr(b, name).cpu()).abs() * (a.alpha > 0.1)
        assert error.max() < tolerance and error.mean() < tolerance / 10, name
    assert (a.alpha - b.alpha.cpu()).abs().max() < 0.01
    for name in a_grad:
        assert (a_grad[name] - b_grad[name]).norm() < 0.02 * a_grad[name].norm(), name


def test_an_occupancy_changes_no_picture_and_no_gradient(kernels):
    plain, sparse = blob(), with_grid(blob())
    assert_the_same(*compared(plain, sparse))
    share = sparse.occupancy.grid.binaries.float().mean()
    assert 0.01 < share < 0.3  # of the cube's cells; the ball fills 0.52 of it


def test_a_ray_through_the_middle_has_the_same_samples(kernels):
    """Its chord is the ball's diameter, so both take the same places, and only what is thrown away differs."""
    plain, sparse = (nerf.render(orbit(30.0), 1, torch.zeros(3)) for nerf in (blob(), with_grid(blob(), lost=1e-6)))
    torch.testing.assert_close(plain.rgb, sparse.rgb, atol=3e-4, rtol=0)
    torch.testing.assert_close(plain.depth, sparse.depth, atol=1e-3, rtol=0)


def test_what_is_lost_is_bounded(kernels):
    for lost in (0.01, 0.3):
        thick = [-(1 - nerf.render(ring(2), 16, torch.zeros(3)).alpha).clamp(min=1e-3).log()
                 for nerf in (blob(), with_grid(blob(), lost=lost))]
        missing = (thick[0] - thick[1])[thick[0] < 3]  # where the early stop and the clamp play no part
        assert missing.max() < lost + 1e-3
    assert missing.max() > 0.02  # so 0.3 does throw something away


def test_jitter_of_sparse_samples_comes_from_its_generator(kernels):
    nerf = with_grid(blob(20))
    a, b, c = (nerf.render(ring(1), 8, torch.ones(3), seeded(s)).rgb for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)
    global_state = torch.get_rng_state()
    nerf.render(ring(1), 8, torch.ones(3), seeded(1))
    assert torch.equal(torch.get_rng_state(), global_state)


def test_what_appears_is_found_within_16_renders_that_learn(kernels):
    nerf, black = with_grid(NeRF(HashGrid(1, 1, 64, 2), hidden=4, samples=40, bias=-1e4, width=1e9)), torch.zeros(3)
    empty = nerf.render(ring(1), 8, black)
    assert (empty.alpha < 1e-3).all()
    nerf.bias = 20.0
    with torch.no_grad():
        assert all((nerf.render(ring(1), 8, black).alpha < 1e-3).all() for _ in range(20))  # looking teaches nothing
    found = [bool((nerf.render(ring(1), 8, black).alpha > 0.9).any()) for _ in range(16)]
    assert found == [False] * 15 + [True]


def test_a_field_of_nothing_shows_the_background_and_has_gradients(kernels):
    nerf = with_grid(NeRF(HashGrid(1, 1, 64, 2), hidden=4, samples=20, bias=-1e4, width=1e9))
    render = nerf.render(ring(2), 6, torch.tensor([0.1, 0.2, 0.3]))
    assert (render.alpha == 0).all() and torch.equal(render.rgb, torch.tensor([0.1, 0.2, 0.3]).expand(2, 6, 6, 3))
    assert all((g == 0).all() for g in torch.autograd.grad(render.rgb.sum(), [*nerf.parameters().values()]))


def test_new_leaves_forget_what_was_occupied(kernels):
    nerf = with_grid(blob(10))
    assert nerf.to("cpu") is nerf and nerf.occupancy
    nerf.load_state_dict(nerf.state_dict())
    assert nerf.occupancy is None


def everywhere(nerf: NeRF, cameras, resolution: int, background: torch.Tensor):
    """The definition: every sample."""
    return volume(nerf.field, cameras, resolution, background, nerf.samples, nerf.radius)


def learnt(steps: int) -> NeRF:
    """A field on its way to a red square seen from everywhere, in front of black."""
    nerf = NeRF(HashGrid(3, 2, 2**12, 4, 2.0, seeded(0)), hidden=16, samples=24, generator=seeded(0))
    adam, target = torch.optim.Adam(nerf.parameters().values(), 0.02), torch.zeros(2, 12, 12, 3)
    target[:, 4:8, 4:8, 0] = 1
    for _ in range(steps):
        adam.zero_grad()
        (nerf.render(ring(2), 12, torch.zeros(3)).rgb - target).square().mean().backward()
        adam.step()
    return nerf


@pytest.mark.parametrize("steps", [0, 15, 60])
def test_empty_space_costs_nothing_and_nobody_sees_it(steps):
    nerf, cameras, black = learnt(steps), orbit([20.0, 130.0], [10.0, -30.0], 2.2), torch.zeros(3)
    cells = occupied(nerf.density, nerf.radius, torch.device("cpu"))
    assert 0.05 < cells.float().mean() < 0.45  # of the cube's cells; the ball fills 0.52 of it
    whole, sparse = everywhere(nerf, cameras, 32, black), nerf.render(cameras, 32, black)
    assert -10 * (whole.rgb - sparse.rgb).square().mean().log10() > 55
    missing = (1 - sparse.alpha).log() - (1 - whole.alpha).log()  # thickness
    assert missing.max() < 0.05 and missing.min() > -1e-4
    leaves = nerf.parameters()
    for (name, _), a, b in zip(leaves.items(), *(torch.autograd.grad(
            (render.rgb * torch.rand(2, 32, 32, 3, generator=seeded(2))).sum(), [*leaves.values()])
            for render in (whole, sparse)), strict=True):
        assert (a - b).norm() < 0.1 * a.norm(), name


def test_a_cell_is_occupied_where_it_or_a_neighbour_is_as_thick_as_the_rule_says():
    def density(points):  # of the cell at (0.25, 0.25, 0.25) alone
        return torch.where((points - 0.25).abs().amax(-1) < 0.2, 0.5, 0.0)

    cells = occupied(density, 1.0, torch.device("cpu"), lost=1.0, cells=4)  # 2 radius * 0.5
    assert cells.nonzero().amin(0).tolist() == [1, 1, 1] and cells.nonzero().amax(0).tolist() == [3, 3, 3]
    assert cells.sum() == 27 and not occupied(density, 1.0, torch.device("cpu"), lost=1.01, cells=4).any()
    points = torch.tensor([[0.25, 0.25, 0.25], [-0.9, 0.2, 0.2], [1.0, 1.0, 1.0], [-0.01, -0.49, -0.49]])
    assert within(cells, points, 1.0).tolist() == [0, 2, 3]


def test_the_samples_in_occupied_cells_are_those_of_the_definition():
    """Where all that is empty has no density at all, the picture is the same to rounding, jitter included."""
    def field(points):
        inside = (points.norm(dim=-1) < 0.4).float()
        return 7 * inside, 0.5 + 0.5 * points.sin()

    cells = occupied(lambda points: field(points)[0], 1.0, torch.device("cpu"))
    whole, sparse = (volume(field, ring(3), 24, torch.ones(3), 40, 1.0, seeded(0), c) for c in (None, cells))
    for name in ("rgb", "alpha", "depth"):
        torch.testing.assert_close(getattr(whole, name), getattr(sparse, name), atol=1e-6, rtol=1e-6)


def test_what_appears_is_seen_at_once_and_what_was_seen_before_counts_for_nothing():
    nerf, black = NeRF(HashGrid(1, 1, 64, 2), hidden=4, samples=40, bias=-1e4, width=1e9), torch.zeros(3)
    assert (nerf.render(ring(1), 8, black).alpha == 0).all()
    nerf.bias = 20.0
    one = nerf.render(ring(1), 8, black).rgb
    assert one.amax() > 0
    nerf.render(ring(3), 12, black, seeded(0))
    assert torch.equal(nerf.render(ring(1), 8, black).rgb, one)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="nerfacc's packed samples need CUDA")
@pytest.mark.parametrize("learning", [True, False])
def test_the_same_on_cuda(learning):
    there = blob().to("cuda")
    if learning:
        assert_the_same(*compared(blob(), there))
    else:
        with torch.no_grad():
            here, there = (nerf.render(ring(3), 24, torch.ones(3)) for nerf in (blob(), there))
        assert (here.rgb - there.rgb.cpu()).abs().max() < 0.02


# The hash grid.


@pytest.mark.parametrize("resolution", [1, 5, 16])
def test_a_level_without_collisions_is_a_dense_trilinear_grid(resolution):
    g = torch.Generator().manual_seed(0)
    grid = HashGrid(1, 3, entries=(resolution + 1) ** 3, base=resolution, generator=g)
    with torch.no_grad():
        grid.tables[0].normal_(generator=g)
    x = torch.rand(200, 3, generator=g)
    n = resolution + 1
    dense = grid.tables[0].reshape(n, n, n, 3).permute(3, 2, 1, 0)[None]  # grid_sample wants (c, z, y, x)
    expected = F.grid_sample(dense, (2 * x - 1).reshape(1, -1, 1, 1, 3), align_corners=True)[0, :, :, 0, 0].T
    torch.testing.assert_close(grid(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("resolution", [1, 5, 16])
def test_both_ways_to_read_a_level_give_the_same_value_and_the_same_gradients(resolution):
    """torch's interpolation and the eight gathered corners: of the table, and of the places."""
    grid = HashGrid(1, 3, entries=(resolution + 1) ** 3, base=resolution, generator=seeded(0)).double()
    corners = torch.cartesian_prod(*[torch.arange(resolution + 1) / resolution] * 3)
    towards = torch.rand(300 + len(corners), 3, generator=seeded(2), dtype=torch.float64)

    def read(level):
        x = torch.cat([torch.rand(300, 3, generator=seeded(1)), corners]).double().requires_grad_()
        y = level(x)
        table, place = torch.autograd.grad((y * towards).sum(), [grid.tables[0], x])
        return y, table, place[:300]  # at a corner the slope has no one value

    ours, gathered = read(grid), read(lambda x: grid.hashed(x, resolution, grid.tables[0]))
    for a, b in zip(ours, gathered, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-9)


def test_a_level_with_collisions_is_read_by_its_corners():
    grid = HashGrid(2, 2, entries=5**3, base=4, growth=2.0, generator=seeded(0))  # the first level fits, the second does not
    x = torch.rand(50, 3, generator=seeded(1)).requires_grad_()
    y = grid(x)
    assert torch.equal(y[:, 2:], grid.hashed(x, 8, grid.tables[1])) and y.shape == (50, 4)
    assert torch.autograd.gradcheck(grid.double(), x[:7].detach().double().requires_grad_())


def test_the_network_is_itself_in_pieces_and_turned():
    mlp = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.ReLU(), torch.nn.Linear(7, 2)).double()
    x = torch.randn(20, 5, generator=seeded(0), dtype=torch.float64).requires_grad_()
    leaves = [x, *mlp.parameters()]
    (a, *of_a), (b, *of_b) = ((y, *torch.autograd.grad(y.square().sum(), leaves)) for y in (mlp(x), through(mlp, x, piece=6)))
    for one, other in ((a, b), *zip(of_a, of_b, strict=True)):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)
    assert through(mlp, x[:0]).shape == (0, 2)


def test_a_level_with_collisions_uses_the_published_hash():
    grid = HashGrid(1, 1, entries=2**6, base=10)
    corner = torch.tensor([[3, 7, 10], [0, 0, 0], [10, 10, 10]])
    expected = [(x ^ y * 2654435761 ^ z * 805459861) % 64 for x, y, z in corner.tolist()]
    assert grid.index(corner, 10).tolist() == expected and len(grid.tables[0]) == 64


def test_the_grid_is_continuous_and_its_corners_are_exact():
    g = torch.Generator().manual_seed(1)
    grid = HashGrid(3, 2, 2**10, 4, 1.7, generator=g)
    inner = torch.tensor([[0.25, 0.5, 0.75]])
    torch.testing.assert_close(grid(inner - 1e-5), grid(inner + 1e-5), atol=1e-6, rtol=0)
    row = grid.index(torch.tensor([[1, 2, 3]]), 4)
    torch.testing.assert_close(grid(inner)[:, :2], grid.tables[0][row])
    assert grid(torch.tensor([[1.0, 1.0, 1.0]])).isfinite().all()


def test_levels_grow_as_instant_ngp_says():
    assert HashGrid(16, 2, 2, 16, 1.447).resolutions[-1] == int(16 * 1.447**15)
    with pytest.raises(ValueError, match="growth"):
        HashGrid(4, growth=0.5)


# The field.


def test_the_start_is_a_blob_with_normals_that_point_out():
    nerf = NeRF(HashGrid(2, 2, 2**10, 4), hidden=8, generator=torch.Generator().manual_seed(0))
    points = 0.4 * F.normalize(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    assert (nerf.density(points * 0.1) > nerf.density(points)).all() and (nerf.density(points * 3) == 0).all()
    assert ((nerf.normals(points) * F.normalize(points, dim=-1)).sum(-1) > 0.95).all()


def test_a_field_learns_a_picture_and_is_saved(tmp_path):
    nerf = NeRF(HashGrid(3, 2, 2**12, 4, 2.0), hidden=16, samples=16, generator=torch.Generator().manual_seed(0))
    adam, camera = torch.optim.Adam(nerf.parameters().values(), 0.02), ring(2)
    target = torch.zeros(2, 12, 12, 3)
    target[:, 4:8, 4:8, 0] = 1
    losses = []
    for _ in range(60):
        loss = (nerf.render(camera, 12, torch.zeros(3)).rgb - target).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    nerf.save(tmp_path / "nerf.safetensors")
    other = load(tmp_path / "nerf.safetensors")
    assert torch.equal(other.render(camera, 12, torch.zeros(3)).rgb, nerf.render(camera, 12, torch.zeros(3)).rgb)
    with pytest.raises(ValueError, match="tensors of another NeRF.*build the one they were saved from"):
        NeRF(HashGrid(2, 2, 2**12, 4), hidden=16).load_state_dict(nerf.state_dict())


@pytest.mark.parametrize("rule", [SDS(guidance=1.0), VDM(torch.nn.Identity(), guidance=7.5)])
def test_any_rule_distils_into_it_unchanged(rule):
    """A prior of one white picture, without noise left to guess: the field must turn white, from its first greys."""
    nerf = NeRF(HashGrid(2, 2, 2**10, 4, 2.0), hidden=8, samples=12, generator=torch.Generator().manual_seed(0))
    prior = ImageMixturePrior(torch.stack([torch.full((3, 16, 16), v) for v in (1.0, -1.0)]), {"colour": ["white", "black"]})
    stage = Stage(nerf, prior, rule, lambda cameras: Prompt(prior.cond(colour="white"), prior.null), Annealed(500, 100),
                  rates=dict.fromkeys(nerf.parameters(), 0.02), steps=40, views=2, resolution=16,
                  background=lambda n, generator: torch.zeros(n, 3))
    before = nerf.render(ring(4), 16, torch.zeros(3)).rgb.mean().item()
    for _ in run(stage, progress=False):
        pass
    assert nerf.render(ring(4), 16, torch.zeros(3)).rgb.mean().item() > before + 0.1


# A background of its own.


def test_its_own_background_is_learnt_and_seen_where_none_is_asked_for(tmp_path):
    """Towards a sky that is blue above and red below, around an object that hides it."""
    nerf = NeRF(HashGrid(1, 1, 64, 2), hidden=4, samples=20, sky=True, generator=seeded(0))
    above, below = torch.tensor([0.1, 0.2, 0.9]), torch.tensor([0.9, 0.2, 0.1])
    cameras = ring(4, 0.0, fov_deg=80.0)
    height = cameras.rays(16)[1][..., 2:]
    target = torch.where(height > 0, above, below)
    mine = {name: leaf for name, leaf in nerf.parameters().items() if name.startswith("background.")}
    adam = torch.optim.Adam(mine.values(), 0.05)
    for _ in range(150):
        adam.zero_grad()
        render = nerf.render(cameras, 16, None)
        ((render.rgb - target).square() * (1 - render.alpha.detach())).mean().backward()
        adam.step()
    clear = (render.alpha[..., 0] < 0.01) & (height[..., 0].abs() > 0.2)
    assert clear.sum() > 100 and (render.rgb - target)[clear].abs().mean() < 0.05
    white = nerf.render(cameras, 16, torch.ones(3))
    assert (white.rgb[clear] > 0.98).all() and torch.equal(white.alpha, nerf.render(cameras, 16, None).alpha)
    turned = torch.tensor([[0.0, 0.0, 1.0], [0.6, 0.0, 0.8]])
    black = nerf.render(cameras, 16, torch.zeros(3))
    sky = nerf.behind(cameras.rays(16)[1].reshape(-1, 3)).reshape(black.rgb.shape)
    torch.testing.assert_close(nerf.render(cameras, 16, None).rgb, black.rgb + (1 - black.alpha) * sky)
    assert nerf.behind(turned).shape == (2, 3)
    nerf.save(tmp_path / "sky")
    assert torch.equal(load(tmp_path / "sky").render(cameras, 8, None).rgb, nerf.render(cameras, 8, None).rgb)


def test_a_field_without_one_says_so_and_is_as_it_was():
    with pytest.raises(ValueError, match="field's own, and it has none: make it with sky=True"):
        NeRF(HashGrid(1, 1, 64, 2)).render(ring(1), 8, None)
    with_one, without = (NeRF(HashGrid(1, 1, 64, 2, generator=seeded(2)), hidden=4, sky=sky, generator=seeded(3))
                         for sky in (True, False))
    assert "sky" not in without.config() and with_one.config()["sky"]
    assert all(torch.equal(leaf, with_one.parameters()[name]) for name, leaf in without.parameters().items())


def test_a_stage_shows_the_prior_the_fields_own_background():
    part = METHODS["field"].toy["shape"].set({"steps": 2, "resolution": 16, "start.samples": 8, "rule": "SDS"})
    mine = part.set({"start.sky": True, "background": "own", "rates.background": 1e-3, "start.features": 3})
    stage = mine.build("a red mug")
    before = stage.scene.state_dict()["background.2.weight"].clone()
    assert [*run(stage, progress=False)][-1].grad_norm > 0 and stage.scene.grid.tables[0].shape[1] == 3
    assert not torch.equal(stage.scene.state_dict()["background.2.weight"], before)
    for changes, match in (({"start.sky": True}, "background must be own for a NeRF that learns one, got backgrounds"),
                           ({"background": "own"}, "background must not be own for a NeRF that learns none, got own"),
                           ({"rates.background": 0.1}, "rates name background, and the scene has only"),
                           ({"background": "black"}, "no background 'black'; there is: backgrounds, grey, own")):
        with pytest.raises(ValueError, match=match):
            part.set(changes).build("a red mug")
    with pytest.raises(ValueError, match="background is nothing to a Picture"):
        METHODS["text2image"].toy["pictures"].set(background="own")
