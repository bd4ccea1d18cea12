"""Gaussian splatting (Kerbl et al. 2023, arXiv 2308.04079, Sec. 4; projection: Zwicker et al. 2001, EWA splatting).

A Gaussian of centre m and covariance R diag(s^2) R^T looks, to a camera, like a flat Gaussian in the image: centre m',
covariance C = J W R diag(s^2) R^T W^T J^T + 0.3 I in pixels^2, with W the camera's rotation and J the Jacobian of the
perspective divide. At pixel p it covers

    alpha = min(0.999, opacity exp(-(p - m')^T A (p - m') / 2)),   A = C^-1, and nothing where that is below 1/255,

and the pixel adds its Gaussians up, nearest first: sum_k T_k alpha_k f_k, T_k = prod_{j<k} (1 - alpha_j). Tensors on a
CUDA device go to gsplat, whose constants these are; the torch version below is the definition of what it computes. (gsplat
also ends a pixel before the Gaussian that would take T to 1e-4 or less: what it leaves out weighs at most 1e-4 / (1 - alpha),
so 0.001 behind alpha = 0.9, and 0.1 at ALPHA_MAX.)
"""
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from dreamlab.cameras import Cameras
from dreamlab.types import Render

BLUR = 0.3  # pixels^2 added to C: nothing is much thinner than a pixel
NEAR = 0.01  # world units: a centre nearer to the camera's plane than this, or behind it, is not drawn
ALPHA_MAX, ALPHA_MIN = 0.999, 1 / 255  # never quite opaque; below one grey level, not there
TILE = 8  # pixels: the pixels of a tile share one list of Gaussians
BLOCK = 1 << 18  # (pixel, Gaussian) pairs composited at once: what fits a processor's cache


def splat(means: Float[Tensor, "n 3"], quats: Float[Tensor, "n 4"], scales: Float[Tensor, "n 3"],
          opacities: Float[Tensor, "n"], colors: Float[Tensor, "n 3"], cameras: Cameras, resolution: int,
          background: Float[Tensor, "3"] | Float[Tensor, "b 3"]) -> Render:
    """Draw Gaussians for each camera, ``resolution`` pixels square; differentiable in all tensors.

    ``means`` and ``scales`` (standard deviations) in world units, ``quats`` wxyz of any norm but 0, ``opacities`` and
    ``colors`` in [0, 1], ``background`` one colour or one per camera. Depth is the mean z of what a pixel sees,
    weighted by T alpha, and 0 where it sees nothing; a Gaussian's normal is its shortest axis, on the camera's side.
    ``means2d`` keeps its gradient: the pull on the centre in the image, the Gaussian's shape and depth held fixed.
    On a CPU the same input gives the same bits. ValueError where sizes do not fit together.
    """
    rows = [len(x) for x in (means, quats, scales, opacities, colors)]
    if len(set(rows)) > 1:
        raise ValueError(f"means, quats, scales, opacities, colors need one row for each Gaussian, got {rows} rows")
    if resolution < 1:
        raise ValueError(f"resolution must be at least 1 pixel, got {resolution}")
    if background.ndim == 2 and len(background) != len(cameras):
        raise ValueError(f"background must be (3,) or ({len(cameras)}, 3), one a camera, got {tuple(background.shape)}")
    viewmats, Ks, eyes = (x.to(means) for x in (cameras.viewmats, cameras.Ks(resolution), cameras.positions))
    rotation = quats_to_matrices(quats)
    normals = rotation.gather(2, scales.argmin(-1)[:, None, None].expand(-1, 3, 1))[..., 0]
    turned = ((eyes[:, None] - means) * normals).sum(-1, keepdim=True) < 0
    features = torch.cat([colors.expand(len(eyes), -1, -1), torch.where(turned, -normals, normals)], -1)
    if means.is_cuda:
        from gsplat import rasterization
        image, alpha, meta = rasterization(
            means=means, quats=quats, scales=scales, opacities=opacities, colors=features, viewmats=viewmats, Ks=Ks,
            width=resolution, height=resolution, near_plane=NEAR, eps2d=BLUR, packed=False, render_mode="RGB+ED")
        depth, means2d, radii = image[..., 6:], meta["means2d"], meta["radii"].to(means)
    else:
        means2d, conics, depths, radii = project(means, rotation, scales, opacities, viewmats, Ks, resolution)
        features = torch.cat([features, depths[..., None]], -1)
        image, alpha = rasterize(means2d, conics, depths, radii, opacities, features, resolution)
        depth = image[..., 6:] / alpha.clamp(min=1e-10)
    rgb = image[..., :3] + (1 - alpha) * background.to(means).reshape(-1, 1, 1, 3)
    if means2d.requires_grad:
        means2d.retain_grad()
    return Render(rgb, alpha, depth, F.normalize(image[..., 3:6], dim=-1), means2d, radii)


def quats_to_matrices(quats: Float[Tensor, "n 4"]) -> Float[Tensor, "n 3 3"]:
    """Rotation matrices of quaternions wxyz, normalised here; the columns are a Gaussian's axes in the world."""
    w, x, y, z = F.normalize(quats, dim=-1).unbind(-1)
    return torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
                        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
                        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1).unflatten(-1, (3, 3))


def project(means: Float[Tensor, "n 3"], rotation: Float[Tensor, "n 3 3"], scales: Float[Tensor, "n 3"],
            opacities: Float[Tensor, "n"], viewmats: Float[Tensor, "b 4 4"], Ks: Float[Tensor, "b 3 3"], resolution: int
            ) -> tuple[Float[Tensor, "b n 2"], Float[Tensor, "b n 3"], Float[Tensor, "b n"], Float[Tensor, "b n 2"]]:
    """Centres m' in pixels, conics (A_xx, A_xy, A_yy), depths, and half width and height in pixels of the box outside
    which alpha < 1/255 (0: not drawn, also where that box lies beside the image). J is taken no further out than 30 % of
    the half image beyond its edge."""
    W, t = viewmats[:, :3, :3], viewmats[:, :3, 3]
    focal, centre = Ks[:, None, (0, 1), (0, 1)], Ks[:, None, :2, 2]
    seen = (W[:, None] * means[:, None]).sum(-1) + t[:, None]
    depths = seen[..., 2]
    drawn = depths > NEAR
    z = torch.where(drawn, depths, 1)[..., None]
    slope = seen[..., :2] / z
    margin = 0.3 * resolution / 2 / focal
    clamped = slope.clamp(-centre / focal - margin, (resolution - centre) / focal + margin)
    axes = (W[:, None, ..., None] * (rotation * scales[:, None])[:, None]).sum(-2)  # W R diag(s)
    flat = (focal / z)[..., None] * (axes[..., :2, :] - clamped[..., None] * axes[..., 2:, :])  # J W R diag(s)
    x, y = flat.unbind(-2)
    xx, xy, yy = (x * x).sum(-1) + BLUR, (x * y).sum(-1), (y * y).sum(-1) + BLUR
    conics = torch.stack([yy, -xy, xx], -1) / (xx * yy - xy * xy).clamp(min=1e-10)[..., None]
    reach = (2 * (opacities / ALPHA_MIN).clamp(min=1).log()).sqrt()[:, None]  # standard deviations to 1/255
    means2d, radii = focal * slope + centre, (reach * torch.stack([xx, yy], -1).sqrt()).ceil()
    inside = ((means2d + radii > 0) & (means2d - radii < resolution)).all(-1)
    return means2d, conics, depths, torch.where((drawn & inside)[..., None], radii, 0).detach()


def rasterize(means2d: Float[Tensor, "b n 2"], conics: Float[Tensor, "b n 3"], depths: Float[Tensor, "b n"],
              radii: Float[Tensor, "b n 2"], opacities: Float[Tensor, "n"], features: Float[Tensor, "b n c"],
              resolution: int) -> tuple[Float[Tensor, "b h w c"], Float[Tensor, "b h w 1"]]:
    """Composited features, and coverage. Tiles with lists of like length go together, padded with an empty Gaussian."""
    b, n, c = features.shape
    side = -(-resolution // TILE)
    ids, starts, counts = tile_lists(*(x.detach() for x in (means2d, conics, depths, radii, opacities)), side)
    log_opacities = opacities.clamp(min=torch.finfo(opacities.dtype).tiny).log().expand(b, n)
    features = torch.cat([features, torch.ones_like(features[..., :1])], -1)  # coverage is what a feature of 1 adds up to
    table = torch.cat([log_opacities[..., None], means2d, conics, features], -1).reshape(b * n, 7 + c)
    table = torch.cat([table, F.pad(table.new_full((1, 1), -1e9), (0, 6 + c))])  # the empty one: log opacity -1e9
    ids = F.pad(ids, (0, 1), value=b * n)
    v, u = torch.cartesian_prod(*2 * [torch.arange(TILE).to(table) + 0.5 - TILE / 2]).unbind(-1)  # from a tile's centre
    basis = torch.stack([torch.ones_like(u), u, v, -u * u / 2, -u * v, -v * v / 2], -1)
    order = counts.argsort(descending=True, stable=True)
    longest, pixels, done = counts[order].clamp(min=1).tolist(), [], 0
    while done < len(order):
        tiles = order[done:done + max(1, BLOCK // (longest[done] * TILE**2))]
        k = torch.arange(longest[done], device=table.device)
        slots = torch.where(k < counts[tiles, None], starts[tiles, None] + k, len(ids) - 1)
        near_to_far = table.index_select(0, ids[slots].flatten()).unflatten(0, slots.shape)
        log_opacity, mx, my, xx, xy, yy = near_to_far[..., :6].unbind(-1)
        mx, my = mx - (tiles % side + 0.5)[:, None] * TILE, my - (tiles // side % side + 0.5)[:, None] * TILE
        x, y = xx * mx + xy * my, xy * mx + yy * my
        quadratic = torch.stack([log_opacity - (x * mx + y * my) / 2, x, y, xx, xy, yy], 1)  # log alpha, in u and v
        pixels.append(Composite.apply(basis @ quadratic, near_to_far[..., 6:]))
        done += len(tiles)
    image = torch.cat(pixels)[order.argsort()].reshape(b, side, side, TILE, TILE, c + 1).transpose(2, 3)
    image = image.reshape(b, side * TILE, side * TILE, c + 1)[:, :resolution, :resolution]
    return image[..., :c], image[..., c:]


class Composite(torch.autograd.Function):
    """sum_k T_k alpha_k f_k over the last axis of log alpha (..., p, k), with f (..., k, c). Its gradient in closed form is

        d / d log alpha_k = T_k alpha_k s_k - alpha_k / (1 - alpha_k) sum_{j > k} T_j alpha_j s_j,   s_k = <gradient, f_k>,

    where alpha_k lies between its bounds, and 0 elsewhere.
    """

    @staticmethod
    def forward(ctx, log_alpha: Tensor, f: Tensor) -> Tensor:
        alpha = F.threshold_(log_alpha.exp().clamp_(max=ALPHA_MAX), ALPHA_MIN, 0)
        weights = alpha.clone()
        weights[..., 1:] *= (1 - alpha).cumprod(-1)[..., :-1]  # T_k
        ctx.save_for_backward(alpha, weights, f)
        return weights @ f

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        alpha, weights, f = ctx.saved_tensors
        mine = (gradient @ f.mT).mul_(weights)
        sums = mine.cumsum(-1)
        behind = sums[..., -1:] - sums
        return (mine - behind.mul_(alpha / (1 - alpha))).mul_(alpha < ALPHA_MAX), weights.mT @ gradient


def tile_lists(means2d: Float[Tensor, "b n 2"], conics: Float[Tensor, "b n 3"], depths: Float[Tensor, "b n"],
               radii: Float[Tensor, "b n 2"], opacities: Float[Tensor, "n"], side: int
               ) -> tuple[Int[Tensor, "pairs"], Int[Tensor, "tiles"], Int[Tensor, "tiles"]]:
    """For each of b * side * side tiles the Gaussians (camera * n + index) of which one pixel may have alpha >= 1/255, nearest
    first: all lists joined, where each starts, and how long it is."""
    b, n = depths.shape
    ids = (depths.argsort(dim=-1, stable=True) + n * torch.arange(b, device=depths.device)[:, None]).flatten()
    first = ((means2d - radii) / TILE).floor().clamp(0, side).long().reshape(-1, 2)[ids]
    last = ((means2d + radii) / TILE).ceil().clamp(0, side).long().reshape(-1, 2)[ids]
    width, height = ((last - first) * (radii.reshape(-1, 2)[ids] > 0)).unbind(-1)
    count = width * height
    pair = torch.arange(len(ids), device=ids.device).repeat_interleave(count)
    k = torch.arange(len(pair), device=ids.device) - (count.cumsum(0) - count)[pair]  # place in its Gaussian's box
    row, column, ids = first[pair, 1] + k // width[pair], first[pair, 0] + k % width[pair], ids[pair]
    # The least (p - m')^T A (p - m') / 2 of a tile is 0, with m' inside, or lies on a side that faces m'
    xx, xy, yy = conics.reshape(-1, 3)[ids].unbind(-1)
    low = torch.stack([column, row], -1) * TILE + 0.5 - means2d.reshape(-1, 2)[ids]
    (x0, y0), (x1, y1) = low.unbind(-1), (low + (TILE - 1)).unbind(-1)
    clamp = lambda x, least, most: x.maximum(least).minimum(most)  # noqa: E731
    form = lambda x, y: (xx * x * x + yy * y * y) / 2 + xy * x * y  # noqa: E731
    x, y = clamp(0 * xx, x0, x1), clamp(0 * xx, y0, y1)
    least = form(x, clamp(-xy * x / yy, y0, y1)).minimum(form(clamp(-xy * y / xx, x0, x1), y))
    touched = (~(least > (opacities / ALPHA_MIN).log()[ids % n] + 1e-3)).nonzero()[:, 0]  # what is not a number stays
    ids, row, column = ids[touched], row[touched], column[touched]
    tile, by_tile = ((ids // n * side + row) * side + column).sort(stable=True)  # stable: depth order stays
    counts = torch.bincount(tile, minlength=b * side * side)
    return ids[by_tile], counts.cumsum(0) - counts, counts
