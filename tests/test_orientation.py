"""Normals of a density, and the loss of what faces away: closed forms, finite differences, what the gradient reaches."""
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from dreamlab.cameras import orbit, ring
from dreamlab.losses import Orientation, Sparse
from dreamlab.methods import METHODS
from dreamlab.noise import seeded
from dreamlab.render.volume import normals, volume
from dreamlab.scenes.gaussians import Gaussians
from dreamlab.scenes.nerf import HashGrid, NeRF
from dreamlab.stage import run
from dreamlab.types import Render, Samples


class Body:
    """An analytic density with grey colours, and its normals."""

    def __init__(self, density, turn: float = 1.0):
        self.density, self.turn = density, turn

    def normals(self, points):
        return self.turn * normals(self.density, points)

    def render(self, cameras, resolution: int = 24, samples: int = 200) -> Render:
        return volume(lambda x: (self.density(x), torch.full_like(x, 0.5)), cameras, resolution, torch.ones(3), samples)


def ball(centre=(0.0, 0.0, 0.0), sharp: float = 200.0):
    """Density that rises from the surface, of radius 0.6, inwards."""
    return lambda x: sharp * (0.6 - (x - torch.as_tensor(centre).to(x)).norm(dim=-1)).clamp(min=0)


def summed(body: Body, render: Render) -> float:
    """The definition, over every sample."""
    s = render.samples
    facing = (body.normals(s.places) * s.directions[s.ray]).sum(-1)
    return ((s.weights * facing.clamp(min=0).square()).sum() / (render.alpha > 0).sum()).item()


def test_normals_of_a_plane_and_a_ball():
    up = F.normalize(torch.tensor([0.3, -0.5, 0.8]), dim=0)
    points = torch.randn(40, 3, generator=seeded(0)) * 0.3
    found = normals(lambda x: F.softplus(-5 * (x @ up)), points)
    torch.testing.assert_close(found, up.expand(40, 3), atol=1e-3, rtol=0)
    out = F.normalize(points, dim=-1)
    torch.testing.assert_close(normals(ball(), 0.4 * out), out, atol=1e-3, rtol=0)


def test_a_render_says_which_samples_it_has_added_up():
    render = Body(ball()).render(orbit([20.0, 140.0]))
    s = render.samples
    alpha = torch.zeros(len(s.directions)).index_add(0, s.ray, s.weights)
    torch.testing.assert_close(alpha.reshape(render.alpha.shape), render.alpha)
    origin = orbit([20.0, 140.0]).positions[(s.ray >= 24 * 24).long()]
    torch.testing.assert_close(F.normalize(s.places - origin, dim=-1), s.directions[s.ray], atol=1e-5, rtol=0)
    assert Render.cat([render]).samples is None and Render.cat([render, render]).samples is None


def test_an_opaque_ball_costs_nothing_from_outside_and_its_mirrored_normals_the_whole():
    """n . d is negative wherever a camera sees the ball, so turning the normals turns 0 into sum w (n . d)²."""
    loss, body, inside_out = Orientation(weight=1.0, points=20_000), Body(ball(sharp=2000.0)), Body(ball(sharp=2000.0), -1.0)
    render = body.render(ring(3))
    s = render.samples
    whole = (s.weights * (body.normals(s.places) * s.directions[s.ray]).sum(-1).square()).sum() / (render.alpha > 0).sum()
    assert loss(body, render) < 2e-3 * whole  # rays that graze it go through
    assert loss(body, render) + loss(inside_out, render) == pytest.approx(whole.item(), rel=1e-2)


def test_a_wall_seen_from_behind_costs_its_angle():
    """One ray, one wall: w cos², with cos the angle between its normal and the ray."""
    up = F.normalize(torch.tensor([1.0, 2.0, 2.0]), dim=0)
    direction = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])
    for ray, expected in ((0, (2 / 3) ** 2), (1, 0.0)):
        samples = Samples(torch.zeros(1, 3), torch.tensor([0.7]), torch.tensor([ray]), direction)
        render = Render(torch.zeros(1, 1, 2, 3), torch.tensor([0.7, 0.0]).reshape(1, 1, 2, 1), samples=samples)
        found = Orientation(weight=3.0)(Body(lambda x: F.softplus(-5 * (x @ up))), render)
        assert found.item() == pytest.approx(3 * 0.7 * expected, abs=1e-4)


@pytest.mark.parametrize("points", [64, 512, 4096])
def test_some_samples_stand_for_all(points):
    body = Body(ball((0.1, 0.0, 0.0), sharp=8.0))  # so thin that its far side is seen too
    render = body.render(ring(2), samples=48)
    whole = summed(body, render)
    assert whole > 0.02
    assert Orientation(weight=1.0, points=points)(body, render).item() == pytest.approx(whole, rel=2 / points**0.5)


def test_the_gradient_is_that_of_finite_differences():
    render = Body(ball(sharp=8.0)).render(ring(2), 8)
    samples = render.samples
    fixed = Render(render.rgb, render.alpha, samples=Samples(*(x.double() if x.is_floating_point() else x for x in (
        samples.places, samples.weights, samples.ray, samples.directions))))

    def loss(centre):
        return Orientation(weight=1.0, points=50)(Body(lambda x: F.softplus(4 * (0.5 - (x - centre).square().sum(-1)))), fixed)

    assert torch.autograd.gradcheck(loss, torch.tensor([0.05, -0.1, 0.2], dtype=torch.float64, requires_grad=True))


def test_it_moves_the_density_and_neither_colours_nor_weights():
    nerf = NeRF(HashGrid(2, 2, 2**12, 4, 2.0, seeded(0)), hidden=8, samples=24, generator=seeded(0))
    with torch.no_grad():
        nerf.grid.tables[1].normal_(generator=seeded(1))
    render = nerf.render(ring(2), 16, torch.ones(3))
    assert not render.samples.weights.requires_grad and render.alpha.requires_grad
    loss, leaves = Orientation(points=500)(nerf, render), nerf.parameters()
    for name, g in zip(leaves, torch.autograd.grad(loss, [*leaves.values()], allow_unused=True), strict=True):
        assert (g is None or (g == 0).all()) == name.startswith("color"), name
    with torch.no_grad():
        assert torch.equal(Orientation(points=500)(nerf, render), loss)  # nothing is drawn at random


def test_following_it_turns_what_is_seen_towards_the_camera():
    nerf = NeRF(HashGrid(2, 2, 2**12, 4, 2.0, seeded(0)), hidden=8, samples=24, generator=seeded(0))
    with torch.no_grad():
        nerf.grid.tables[1].normal_(generator=seeded(1))
    render, adam, losses = nerf.render(ring(3), 16, torch.ones(3)), torch.optim.Adam(nerf.parameters().values(), 0.03), []
    for _ in range(40):
        loss = Orientation(weight=1.0)(nerf, render)
        losses.append(loss.item())
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert losses[-1] < 0.5 * losses[0]


def test_nothing_seen_costs_nothing():
    empty = Body(lambda x: 0 * x[:, 0])
    assert Orientation()(empty, empty.render(ring(1))) == 0


def test_the_weight_rises_with_the_steps():
    rising = Orientation()
    assert [rising.at(step, 10_000).weight for step in (0, 2500, 5000, 9999)] == [10.0, 505.0, 1000.0, 1000.0]
    assert Orientation(weight=3.0).at(7, 9) == Orientation(weight=3.0) and rising.at(0, 0).weight == 10.0
    body = Body(ball(sharp=8.0))
    render = body.render(ring(1))
    assert rising.at(5000, 10_000)(body, render) == pytest.approx(100 * rising(body, render).item())
    with pytest.raises(ValueError, match="no field with normals"):
        rising.check(Gaussians.ball(10, generator=seeded(0)))


def test_a_stage_asks_the_regulariser_for_its_step():
    part = METHODS["field"].toy["shape"].set({
        "steps": 4, "resolution": 16, "start.samples": 8, "rule": "SDS", "regularise": "Orientation", "regularise.points": 99})
    stage, asked = part.build("a red mug"), []

    class Noted(Orientation):
        def at(self, step, steps):
            asked.append((step, steps))
            return Orientation.at(self, step, steps)

    stage.regularise = Noted(points=99)
    assert all(step.render.samples is None for step in run(stage, progress=False))
    assert asked == [(i, 4) for i in range(4)]
    with pytest.raises(ValueError, match="Orientation for a Gaussians"):
        METHODS["ball"].toy["shape"].set(regularise="Orientation").build("a red mug")


def test_a_normal_map_is_what_is_seen_from_there():
    nerf = NeRF(HashGrid(1, 1, 2**10, 4), hidden=4, samples=128, bias=200.0, generator=seeded(0))  # an opaque ball of 0.5
    found = nerf.normal_map(orbit(30.0, 0.0), 25)[0]
    assert found[0, 0].tolist() == [0, 0, 0]
    towards = F.normalize(orbit(30.0, 0.0).positions[0], dim=0)
    assert (found[12, 12] * towards).sum() > 0.99 and found[6, 12, 2] > 0.4


def test_sparse_is_its_closed_form_and_for_scenes_that_need_not_cover():
    """weight * mean sqrt(alpha² + 0.01): 0.1 of it where nothing is, and a gradient that takes coverage away."""
    alpha = torch.tensor([0.0, 0.5, 1.0, 1.0]).view(1, 2, 2, 1).requires_grad_()
    found = Sparse(3.0)(None, Render(alpha.expand(1, 2, 2, 3), alpha))
    assert torch.isclose(found, 3 * torch.tensor([0.01, 0.26, 1.01, 1.01]).sqrt().mean())
    assert torch.isclose(Sparse(3.0)(None, Render(0 * alpha.expand(1, 2, 2, 3), 0 * alpha)), torch.tensor(0.3))
    gradient, = torch.autograd.grad(found, alpha)
    assert (gradient[alpha > 0] > 0).all()
    opaque, half = Sparse(0.0, opaque=2.0, since=0.25), alpha.new_full((1, 2, 2, 1), 0.5)
    grey = half.expand(1, 2, 2, 3)
    assert torch.isclose(opaque.at(25, 100)(None, Render(grey, half)), 2 * torch.tensor(2.0).log())  # the entropy of a coin
    assert opaque.at(24, 100)(None, Render(grey, half)) == 0
    assert opaque(None, Render(grey, 0 * half)) < 0.02
    Sparse().check(NeRF)
    with pytest.raises(ValueError, match="regularise must not be Sparse for a .*: leave it out"):
        Sparse().check(SimpleNamespace(dimensions=2))
