"""Gaussian splatting by definition: every Gaussian at every pixel. Slow, obvious, written apart from the renderer."""
import torch
from torch import Tensor


def brute_force(means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Tensor, viewmat: Tensor,
                K: Tensor, resolution: int, pixels: Tensor, cut: float = 1 / 255) -> tuple[Tensor, Tensor, Tensor]:
    """Colour without background (P, 3), coverage (P, 1), mean depth (P, 1) at ``pixels`` (P, 2), for one camera."""
    w, v = (quats / quats.norm(dim=1, keepdim=True)).split([1, 3], 1)
    eye, zero = torch.eye(3).to(means), torch.zeros_like(means[:, 0])
    V = torch.stack([zero, -v[:, 2], v[:, 1], v[:, 2], zero, -v[:, 0], -v[:, 1], v[:, 0], zero], 1).view(-1, 3, 3)
    R = eye + 2 * w[:, :, None] * V + 2 * V @ V  # Rodrigues
    x, y, z = (means @ viewmat[:3, :3].T + viewmat[:3, 3]).T
    keep = z > 0.01
    x, y, z, R, s, o, c = (a[keep] for a in (x, y, z, R, scales, opacities, colors))
    f, limit = K[0, 0], 1.3 * resolution / 2 / K[0, 0]
    u, v = ((a / z).clamp(-limit, limit) for a in (x, y))
    JW = (f / z * torch.stack([0 * z + 1, 0 * z, -u, 0 * z, 0 * z + 1, -v])).T.view(-1, 2, 3) @ viewmat[:3, :3]
    covariance = JW @ R @ torch.diag_embed(s**2) @ R.mT @ JW.mT + 0.3 * eye[:2, :2]
    d = pixels[:, None] - (f * torch.stack([x, y], 1) / z[:, None] + K[:2, 2])
    alpha = (o * torch.exp(-torch.einsum("pni,nij,pnj->pn", d, covariance.inverse(), d) / 2)).clamp(max=0.999)
    nearest_first = z.argsort(stable=True)
    alpha = torch.where(alpha < cut, 0, alpha)[:, nearest_first]
    T = torch.cat([torch.ones(len(pixels), 1).to(means), (1 - alpha).cumprod(1)], 1)
    weights = alpha * T[:, :-1]
    coverage = weights.sum(1, keepdim=True)
    return weights @ c[nearest_first], coverage, weights @ z[nearest_first, None] / coverage.clamp(min=1e-10)


def pixel_centres(resolution: int) -> Tensor:
    """(resolution^2, 2) positions (x, y), row by row from the top."""
    p = torch.arange(resolution) + 0.5
    return torch.cartesian_prod(p, p).flip(1)
