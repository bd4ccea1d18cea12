"""Splatting: equal to its definition and to gsplat, exact gradients, and what any picture of solid things must obey."""
import hashlib

import pytest
import torch

from benchmarks.brute_force import brute_force, pixel_centres
from dreamlab.cameras import orbit
from dreamlab.render import splat as module
from dreamlab.render.splat import project, quats_to_matrices, splat

CAMERAS = orbit([20.0, 135.0], [10.0, 30.0], 2.2, 40.0)
NAMES = ("means", "quats", "scales", "opacities", "colors")


def cloud(n, generator, dtype=torch.float32, size=0.15, spread=0.8):
    """n random Gaussians: long and flat ones, faint and opaque, some partly outside the picture."""
    rand = lambda *shape: torch.rand(*shape, generator=generator, dtype=dtype)  # noqa: E731
    randn = lambda *shape: torch.randn(*shape, generator=generator, dtype=dtype)  # noqa: E731
    parts = (spread * (2 * rand(n, 3) - 1), randn(n, 4), size * (0.1 + rand(n, 3)), 0.02 + 0.97 * rand(n), rand(n, 3))
    return [x.requires_grad_() for x in parts]


def by_definition(gaussians, cameras, resolution, background):
    pictures = []
    for viewmat, K in zip(cameras.viewmats.to(background), cameras.Ks(resolution).to(background), strict=True):
        rgb, alpha, depth = brute_force(*gaussians, viewmat, K, resolution, pixel_centres(resolution).to(background))
        pictures.append(torch.cat([rgb + (1 - alpha) * background, alpha, depth], 1))
    return torch.stack(pictures).unflatten(1, (resolution, resolution))


def drawn(gaussians, cameras, resolution, background):
    render = splat(*gaussians, cameras, resolution, background)
    return torch.cat([render.rgb, render.alpha, render.depth], -1)


@pytest.mark.parametrize("n, resolution, dtype, tolerance", [
    (60, 32, torch.float32, 1e-5), (300, 50, torch.float32, 1e-5),
    (60, 32, torch.float64, 1e-12), (1, 7, torch.float64, 1e-12)])
def test_equals_brute_force(n, resolution, dtype, tolerance, generator):
    gaussians, background = cloud(n, generator, dtype), torch.tensor([0.2, 0.5, 0.9], dtype=dtype)
    ours, truth = (draw(gaussians, CAMERAS, resolution, background) for draw in (drawn, by_definition))
    assert (ours - truth).abs().max() < tolerance

    direction = torch.randn(ours.shape, generator=generator, dtype=dtype)
    gradients = (torch.autograd.grad((x * direction).sum(), gaussians) for x in (ours, truth))
    for name, a, b in zip(NAMES, *gradients, strict=True):
        assert (a - b).norm() < tolerance * b.norm().clamp(min=1), name


def test_equals_brute_force_from_within(generator):
    """A camera among the Gaussians: some behind it, some so close and oblique that the Jacobian is clamped."""
    gaussians, cameras = cloud(200, generator, torch.float64, spread=2.5), orbit([0.0], 5.0, 1.0, 60.0)
    background = torch.zeros(3, dtype=torch.float64)
    error = drawn(gaussians, cameras, 32, background) - by_definition(gaussians, cameras, 32, background)
    assert error.abs().max() < 1e-10


def test_blocks_do_not_change_the_picture(generator, monkeypatch):
    gaussians, background = cloud(200, generator, torch.float64), torch.ones(3, dtype=torch.float64)
    whole = drawn(gaussians, CAMERAS, 40, background)
    monkeypatch.setattr(module, "BLOCK", 1)
    monkeypatch.setattr(module, "TILE", 5)
    assert (drawn(gaussians, CAMERAS, 40, background) - whole).abs().max() < 1e-12


@pytest.mark.slow
def test_gradcheck(generator, monkeypatch):
    monkeypatch.setattr(module, "ALPHA_MIN", 0.0)  # the cut is a step: no derivative there
    background = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64, requires_grad=True)

    def picture(*inputs):
        render = splat(*inputs[:5], CAMERAS, 9, inputs[5])
        return render.rgb, render.alpha, render.depth, render.normal

    assert torch.autograd.gradcheck(picture, (*cloud(6, generator, torch.float64, size=0.3), background), atol=1e-6)


def test_projection_equals_gsplat(generator):
    published = pytest.importorskip("gsplat.cuda._torch_impl")
    means, quats, scales, opacities, _ = (x.detach() for x in cloud(2000, generator))
    viewmats, Ks = CAMERAS.viewmats, CAMERAS.Ks(64)
    covars, _ = published._quat_scale_to_covar_preci(torch.nn.functional.normalize(quats, dim=-1), scales, True, False)
    radii, means2d, depths, conics, _ = published._fully_fused_projection(means, covars, viewmats, Ks, 64, 64)
    ours = project(means, quats_to_matrices(quats), scales, torch.ones_like(opacities), viewmats, Ks, 64)
    assert (ours[0] - means2d).abs().max() < 1e-4
    assert (ours[1] - conics).abs().max() < 1e-4
    assert (ours[2] - depths).abs().max() < 1e-5
    drawn = radii.gt(0).all(-1)
    assert 0.5 < drawn.float().mean() < 1  # the rest lies beside the image
    assert ((ours[3] > 0).all(-1) != drawn).sum() <= 2  # boxes that just touch it
    assert (ours[3] - radii)[drawn].abs().max() <= 1  # 3.33 there, sqrt(2 ln 255) = 3.3290 here, both rounded up


@pytest.mark.skipif(not torch.cuda.is_available(), reason="gsplat draws on CUDA only")
@pytest.mark.parametrize("n, resolution, size", [(1, 33, 0.3), (500, 64, 0.15), (3000, 100, 0.05)])
def test_equals_gsplat_on_cuda(n, resolution, size, generator):
    """Single pixels may differ by a grey level, where alpha falls on the cut, so means and norms are compared."""
    gaussians, background = cloud(n, generator, size=size, spread=0.8 if n > 1 else 0.0), torch.tensor([0.2, 0.5, 0.9])
    others = [x.detach().cuda().requires_grad_() for x in gaussians]
    here = splat(*gaussians, CAMERAS, resolution, background)
    there = splat(*others, CAMERAS, resolution, background)  # cameras and background may stay on the CPU
    pull = torch.randn(here.rgb.shape, generator=generator)
    for render in (here, there):
        shown = render.rgb + (render.depth + render.normal) * render.alpha  # whose edges are smooth
        (shown * pull.to(shown)).sum().backward()
    in_both = (here.radii > 0) & (there.radii > 0).cpu()
    assert in_both.float().mean() > (here.radii > 0).float().mean() - 0.01
    assert (there.means2d.cpu() - here.means2d)[in_both].abs().max() < 1e-3
    assert (there.radii.cpu() - here.radii)[in_both].abs().max() <= 1
    for name in ("rgb", "alpha", "normal"):
        assert (getattr(there, name).cpu() - getattr(here, name)).abs().mean() < 1e-3, name
    seen = here.alpha > 0.1
    assert (there.depth.cpu() - here.depth)[seen].abs().mean() < 1e-3
    drawn = here.radii > 0
    for name, a, b in (*zip(NAMES, gaussians, others, strict=True), ("means2d", here.means2d, there.means2d)):
        mine, theirs = a.grad, b.grad.cpu()
        if name == "means2d":  # gsplat promises nothing for those that are not drawn
            mine, theirs = mine * drawn, torch.where(drawn, theirs, 0)
        assert (theirs - mine).norm() < 0.02 * mine.norm(), name


def test_empty_scene_and_scene_behind_the_camera_show_the_background(generator):
    background = torch.rand(2, 3, generator=generator)
    behind = cloud(50, generator, size=0.01, spread=0.1)
    cameras = orbit([0.0, 0.0], [10.0, 20.0], 2.2, 40.0)
    behind[0] = (behind[0] + torch.tensor([9.0, 0, 0])).detach().requires_grad_()
    for gaussians in (cloud(0, generator), behind):
        render = splat(*gaussians, cameras, 12, background)
        assert (render.alpha == 0).all() and (render.depth == 0).all() and (render.normal == 0).all()
        assert torch.equal(render.rgb, background[:, None, None].expand(2, 12, 12, 3))
        for g in torch.autograd.grad(render.rgb.sum() + render.depth.sum() + render.normal.sum(), gaussians):
            assert (g == 0).all()


def test_opacity_zero_is_invisible_and_has_finite_gradients(generator):
    gaussians = cloud(20, generator)
    gaussians[3] = torch.zeros(20, requires_grad=True)
    render = splat(*gaussians, CAMERAS, 16, torch.ones(3))
    assert (render.alpha == 0).all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(render.rgb.sum(), gaussians))


def test_order_in_memory_does_not_matter(generator):
    gaussians = cloud(300, generator)
    back_to_front = (CAMERAS.positions[0] - gaussians[0]).norm(dim=-1).argsort(descending=True)
    one, two = (splat(*g, CAMERAS, 32, torch.ones(3)) for g in (gaussians, [x[back_to_front] for x in gaussians]))
    assert torch.equal(one.rgb, two.rgb) and torch.equal(one.depth, two.depth)


def test_opaque_front_hides_what_is_behind():
    """Red stands at x = 0.5, towards the front camera, and green at -0.5: each hides the other from its own side."""
    means = torch.tensor([[-0.5, 0, 0], [0.5, 0, 0]])
    render = splat(means, torch.tensor([[1.0, 0, 0, 0]] * 2), torch.full((2, 3), 0.3), torch.ones(2),
                   torch.tensor([[0.0, 1, 0], [1.0, 0, 0]]), orbit([0.0, 180.0], 0.0, 2.2), 33, torch.zeros(3))
    front, back = render.rgb[:, 16, 16]
    assert front[0] > 0.99 and front[1] < 0.01 and back[1] > 0.99 and back[0] < 0.01
    assert (render.depth[:, 16, 16] - 1.7).abs().max() < 2e-3


def test_normals_of_discs_face_the_camera():
    quat, scale = torch.tensor([[1.0, 0, 0, 0]]), torch.tensor([[0.01, 0.3, 0.3]])
    disc = (torch.zeros(1, 3), quat, scale, torch.ones(1), torch.ones(1, 3))
    normal = splat(*disc, orbit([10.0, 170.0], 0.0), 17, torch.zeros(3)).normal[:, 8, 8]
    assert torch.allclose(normal, torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]]), atol=1e-5)


def test_a_batch_of_cameras_is_each_camera_alone(generator):
    gaussians, backgrounds = cloud(100, generator), torch.rand(2, 3, generator=generator)
    both = splat(*gaussians, CAMERAS, 24, backgrounds).rgb
    for i in range(2):
        assert (splat(*gaussians, CAMERAS[i:i + 1], 24, backgrounds[i]).rgb[0] - both[i]).abs().max() < 1e-6


@pytest.mark.slow
def test_same_bits_with_one_and_two_threads(generator):
    gaussians, before, bits = cloud(500, generator, size=0.1), torch.get_num_threads(), set()
    try:
        for threads in (1, 2, 1, 2):
            torch.set_num_threads(threads)
            render = splat(*gaussians, CAMERAS, 50, torch.ones(3))
            loss = render.rgb.square().sum() + render.depth.sum() + render.normal.sum()
            tensors = (render.rgb, render.depth, render.normal, *torch.autograd.grad(loss, gaussians))
            bits.add(hashlib.sha256(b"".join(x.detach().contiguous().numpy().tobytes() for x in tensors)).hexdigest())
    finally:
        torch.set_num_threads(before)
    assert len(bits) == 1


def test_wrong_sizes_are_named(generator):
    means, quats, scales, opacities, colors = (x.detach() for x in cloud(5, generator))
    with pytest.raises(Exception, match="opacities"):  # the run-time shape check comes first under pytest
        splat(means, quats, scales, opacities[:4], colors, CAMERAS, 8, torch.ones(3))
    with pytest.raises(ValueError, match=r"got \(3, 3\)"):
        splat(means, quats, scales, opacities, colors, CAMERAS, 8, torch.ones(3, 3))
    with pytest.raises(ValueError, match="at least 1 pixel, got 0"):
        splat(means, quats, scales, opacities, colors, CAMERAS, 0, torch.ones(3))
