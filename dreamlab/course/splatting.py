"""Self-checks of notebook 08: a point's pixel, a Gaussian's shadow, one pixel's list, and a split."""
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from dreamlab.cameras import Cameras, orbit
from dreamlab.course import judge
from dreamlab.noise import randn
from dreamlab.render.splat import BLUR, project, quats_to_matrices, splat
from dreamlab.scenes.gaussians import Gaussians
from dreamlab.scenes.growth import Growth

SIDE = 48  # pixels of the checks' pictures


def case(seed: int, n: int) -> tuple[Cameras, Float[Tensor, "n 3"], Float[Tensor, "n 4"], Float[Tensor, "n 3"]]:
    """A camera, and n Gaussians in its picture: means, quaternions, scales."""
    g = torch.Generator().manual_seed(seed)
    means, quats, scales = torch.rand(n, 3, generator=g) - 0.4, torch.randn(n, 4, generator=g), torch.rand(n, 3, generator=g)
    return orbit(35.0, 20.0, 2.2, 45.0), means, quats, 0.05 + 0.15 * scales


def check_to_pixels(answer: Callable) -> str:
    """Exercise 1: ``to_pixels(points, viewmat, K)``: points (N, 3), viewmat (4, 4), K (3, 3); pixels (N, 2), x then y."""
    camera, points, quats, scales = case(81, 12)
    V, K = camera.viewmats[0], camera.Ks(SIDE)[0]
    right = project(points, quats_to_matrices(quats), scales, torch.ones(12), V[None], K[None], SIDE)[0][0]
    W, t, focal, centre = V[:3, :3], V[:3, 3], K[0, 0], K[:2, 2]
    seen = points @ W.T + t

    def pixels(p: Tensor) -> Tensor:
        return focal * p[:, :2] / p[:, 2:] + centre

    return judge(answer(points, V, K), right, {
        "y is upside down: in OpenCV's axes the second one points down already, and row 0 is the top.":
            torch.stack([right[:, 0], SIDE - right[:, 1]], -1),
        "row and column are swapped: x, the column, comes first.": right.flip(-1),
        "you did not divide by z: far things would be as large as near ones.": focal * seen[:, :2] + centre,
        "half a pixel off: K already counts from the picture's corner, and pixel centres lie at +0.5.": right - 0.5,
        "half a pixel off, the other way: nothing is to be added.": right + 0.5,
        "this divides by the distance to the camera: divide by z, the distance to the camera's plane.":
            focal * seen[:, :2] / seen.norm(dim=-1, keepdim=True) + centre,
        "the rotation is transposed: points are rows here, so it is points @ W.T.": pixels(points @ W + t),
        "the translation is missing: the camera does not stand at the origin.": pixels(points @ W.T),
        "the centre is missing: pixel (0, 0) is the corner, not the middle.": right - centre,
        "the focal length is missing: this is a slope, not a pixel.": seen[:, :2] / seen[:, 2:] + centre,
        "these are three numbers before the divide: keep x and y over z.": (seen @ K.T)[:, :2],
    }, "world to camera with viewmat, multiply by K, divide by z.")


def check_shadow(answer: Callable) -> str:
    """Exercise 2: ``shadow(R, s, W, J)`` of one Gaussian, the covariance (2, 2) in pixels^2 of what is drawn."""
    camera, means, quats, scales = case(82, 1)
    V, K, rotation = camera.viewmats, camera.Ks(SIDE), quats_to_matrices(quats)
    R, s, W = rotation[0], scales[0], V[0, :3, :3]
    x, y, z = (means @ W.T + V[0, :3, 3])[0]
    zero = torch.zeros(())
    J = K[0, 0, 0] / z * torch.stack([1 + zero, zero, -x / z, zero, 1 + zero, -y / z]).view(2, 3)
    a, b, c = project(means, rotation, scales, torch.ones(1), V, K, SIDE)[1][0, 0]
    right = torch.stack([a, b, b, c]).view(2, 2).inverse()
    S, blur = s.diag(), BLUR * torch.eye(2)

    def flat(covariance: Tensor, W: Tensor = W) -> Tensor:
        return J @ W @ covariance @ W.T @ J.T + blur

    return judge(answer(R, s, W, J), right, {
        "R S R^T has standard deviations on its diagonal: a covariance needs their squares, R S S R^T.": flat(R @ S @ R.T),
        "the rotation stands the wrong way round: R's columns are the axes, so R S S R^T.": flat(R.T @ S @ S @ R),
        "the rotation is missing: this Gaussian lies along the world's axes.": flat(S @ S),
        "the last R^T is missing: a covariance has both, or it is not symmetric.": flat(R @ S @ S),
        "W is the wrong way round: it turns the world into the camera, W Sigma W^T.": flat(R @ S @ S @ R.T, W.T),
        "W is missing: Sigma is in the world's axes, J in the camera's.": J @ R @ S @ S @ R.T @ J.T + blur,
        "the blur is missing: 0.3 pixels^2 on the diagonal.": right - blur,
        "the blur is a variance already: add 0.3, not its square.": right - blur + BLUR**2 * torch.eye(2),
        "the blur belongs on the diagonal only: add 0.3 times the identity.": right - blur + BLUR,
    }, "Sigma = R S S R^T with S = diag(s); then J W Sigma W^T J^T; then the blur.")


def check_composite(answer: Callable) -> str:
    """Exercise 3: ``composite(alphas, colors, background)``, nearest first: (K,), (K, 3), (3,); the pixel's colour (3,)."""
    g = torch.Generator().manual_seed(83)
    n, camera = 6, orbit(0.0, 0.0, 2.4, 40.0)
    alphas, colors = 0.15 + 0.6 * torch.rand(n, generator=g), torch.rand(n, 3, generator=g)
    background = torch.rand(3, generator=g)
    means = torch.stack([torch.linspace(0.5, -0.5, n), torch.zeros(n), torch.zeros(n)], -1)  # behind one another
    right = splat(means, torch.tensor([[1.0, 0, 0, 0]]).repeat(n, 1), torch.full((n, 3), 0.2), alphas, colors, camera, 1,
                  background).rgb[0, 0, 0]  # their centres are the centre of the one pixel
    T = torch.cat([torch.ones(1), (1 - alphas).cumprod(0)])
    weights, left = T[:-1] * alphas, T[-1]
    own = T[1:] * alphas
    back = (alphas.flip(0) * torch.cat([torch.ones(1), (1 - alphas.flip(0)).cumprod(0)[:-1]])).flip(0)
    return judge(answer(alphas, colors, background), right, {
        "back to front: this lets the last of the list hide the first.": back @ colors + left * background,
        "T includes the Gaussian's own alpha: light that reaches it has passed only those before it.":
            own @ colors + left * background,
        "the background is missing: what passes all of them, T after the last, shows it.": weights @ colors,
        "the background has full weight: it is seen through all of them.": weights @ colors + background,
        "the background's weight stops one short: T must pass the last Gaussian too.": weights @ colors + T[-2] * background,
        "T is missing: each one is dimmed by those before it.": alphas @ colors + left * background,
        "T is missing, and the background too: each one is dimmed by those before it, and what passes all of them shows it.":
            alphas @ colors,
        "alpha is missing: T alone is the light that reaches, not what is stopped.": T[:-1] @ colors + left * background,
        "these weights are made to sum to 1: what is missing from 1 is the background's.": weights @ colors / weights.sum(),
    }, "T starts at 1; each adds T * alpha * colour and leaves T * (1 - alpha).")


def check_split(answer: Callable) -> str:
    """Exercise 4: ``split(mean, R, s, noise)``: a Gaussian (3,), (3, 3), (3,) and normal noise (2, 3); (2, 6), the means
    and the scales of its two halves."""
    _, means, quats, scales = case(84, 1)
    mean, R, s = means[0], quats_to_matrices(quats)[0], scales[0]
    scene, one = Gaussians(means, quats, scales, torch.ones(1), torch.ones(1, 3)), torch.ones(1)
    growth = Growth(split=0.01)
    growth.load_state_dict({"pull": one, "views": one, "radius": one})
    noise = randn((2, 1, 3), torch.Generator().manual_seed(85))[:, 0]
    growth.grow(scene, torch.optim.Adam([*scene.raw.values()]), torch.Generator().manual_seed(85), settled=False)
    right = torch.cat([scene.means, scene.scales], -1).detach()

    def halves(moved: Tensor, s_new: Tensor) -> Tensor:
        return torch.cat([mean + moved, s_new.expand(2, 3)], -1)

    inside = (noise * s) @ R.T  # R diag(s) noise, a row a half
    return judge(answer(mean, R, s, noise), right, {
        "the scales are left as they are: two copies of this size would cover more than before.": halves(inside, s),
        "the scales grow: divide by 1.6.": halves(inside, 1.6 * s),
        "the scales are halved: the published factor for two is 0.8 * 2 = 1.6.": halves(inside, s / 2),
        "the rotation is missing: s is along the Gaussian's own axes.": halves(noise * s, s / 1.6),
        "the rotation stands the wrong way round: its columns are the axes, so with rows it is (noise * s) @ R.T.":
            halves((noise * s) @ R, s / 1.6),
        "you turn the noise first: stretch it along the axes, then turn.": halves(noise @ R.T * s, s / 1.6),
        "the halves are drawn from a ball: the noise is to be stretched by s.": halves(noise @ R.T, s / 1.6),
        "s is a standard deviation: to draw from the Gaussian, multiply by it, not by its square.":
            halves((noise * s**2) @ R.T, s / 1.6),
        "they are drawn with the new scales: use those of the Gaussian that is split.": halves(inside / 1.6, s / 1.6),
        "both halves lie at the old centre.": halves(torch.zeros(2, 3), s / 1.6),
        "the old centre is missing: this is how far they move.": torch.cat([inside, (s / 1.6).expand(2, 3)], -1),
    }, "mean + R (s * noise), row by row; s / 1.6 for both; torch.cat along the last axis.")
