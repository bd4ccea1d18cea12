"""Self-checks and pictures of notebook 15: agreement as variance, the visual hull, and NeuS's opacity."""
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from dreamlab import course
from dreamlab.cameras import Cameras, Orbit, ring
from dreamlab.costvolume import aggregate, hull, look, project
from dreamlab.course import judge
from dreamlab.mesh import Mesh, face_normals, marching_tetrahedra
from dreamlab.metrics.truth import iou
from dreamlab.noise import seeded
from dreamlab.render.mesh import rasterize
from dreamlab.render.volume import alpha_weights, neus_alpha
from dreamlab.scenes.tets import clean
from dreamlab.toybox.objects import Toy
from dreamlab.toybox.render import render


def benchmark() -> dict:
    """What ``python -m benchmarks.reconstruction`` has stored: the network beside the hull, all eight kinds."""
    return course.benchmark("reconstruction")


def plane(z: float, n: int = 96, bound: float = 0.8) -> tuple[Float[Tensor, "n"], Float[Tensor, "nn 3"]]:
    """A horizontal slice, seen from above with the front at its lower edge: x falls down the rows, y goes right."""
    axis = bound * ((2 * torch.arange(n) + 1) / n - 1)
    x, y = torch.meshgrid(axis, axis, indexing="ij")
    return axis, torch.stack([x, y, torch.full_like(x, z)], -1).view(-1, 3)


def surface(values: Float[Tensor, "n n n"], places: Float[Tensor, "n n n 3"]) -> Mesh:
    """The surface where values, negative inside, are 0, without floaters; each vertex has its place for a colour."""
    vertices, faces = clean(*marching_tetrahedra(values, places))
    return Mesh(vertices, faces, vertices)


@lru_cache
def silhouettes(kind: str) -> Bool[Tensor, "12 64 64"]:
    """The true ones of a toy, from 12 azimuths."""
    return render(Toy(kind), "red", ring(12), 64).alpha[..., 0] > 0.5


def overlap(mesh: Mesh, kind: str) -> float:
    """Intersection over union with the true silhouettes: the benchmark's."""
    return iou(rasterize(mesh.vertices, mesh.faces, ring(12), 64).face >= 0, silhouettes(kind)).mean().item()


def shaded(mesh: Mesh, cameras: Cameras, side: int = 96) -> Float[Tensor, "b side side 3"]:
    """A grey mesh over white, each triangle flat: the brighter, the more it faces the camera."""
    face = rasterize(mesh.vertices, mesh.faces, cameras, side).face
    light = F.normalize(face_normals(mesh.vertices, mesh.faces), dim=-1) @ F.normalize(cameras.positions, dim=-1).T
    each = torch.arange(len(cameras))[:, None, None].expand_as(face)
    return torch.where(face < 0, 1.0, 0.15 + 0.75 * light[face, each].clamp(min=0))[..., None].expand(-1, -1, -1, 3)


def coloured(mesh: Mesh, cameras: Cameras, side: int = 64) -> Float[Tensor, "b side side 3"]:
    """The mesh over white in the colours of its vertices."""
    seen = rasterize(mesh.vertices, mesh.faces, cameras, side)
    return torch.where((seen.face >= 0)[..., None], seen.interpolate(mesh.colours), 1.0)


def looked(channels: int, seed: int) -> tuple[Float[Tensor, "v c h w"], Cameras, Tensor, Tensor, Tensor]:
    """Five random pictures, their cameras, 60 points of which some lie beside some pictures and one beside all, what the
    pictures have there, and whether the points are in them."""
    g = seeded(seed)
    cameras = Orbit(fov_deg=26.0).sample(5, g)
    points = torch.rand(60, 3, generator=g) * 1.6 - 0.8
    points[0] = 9.0
    pictures = torch.rand(5, channels, 8, 8, generator=g)
    xy, inside, _ = project(points, cameras)
    return pictures, cameras, points, look(pictures, xy), inside


def check_variance(answer: Callable) -> str:
    """Exercise 1: ``variance(seen, inside)``: features (V, C, P) that V views have at P points, and whether the points are in
    their pictures (V, P); the variance over those views (C, P), 0 where fewer than two have the point."""
    pictures, cameras, points, seen, inside = looked(3, 151)
    right = aggregate(pictures, cameras, points)[1]
    m = inside[:, None].float()
    count = m.sum(0)
    n = count.clamp(min=1)
    mean = (seen * m).sum(0) / n
    squares = (seen.square() * m).sum(0) / n
    found = answer(seen, inside)
    if isinstance(found, Tensor) and not found.isfinite().all():
        return "Not yet: 0 / 0, or a number over 0, where no view has the point: keep the count above 0."
    return judge(found, right, {
        "all views count here: leave out those that do not have the point in their picture.": seen.var(0, correction=0),
        "all views count here, and this divides by one less.": seen.var(0),
        "this divides by all views: divide by how many have the point.": ((seen - mean).square() * m).sum(0) / len(seen),
        "this divides by one less than the count: Var is the plain mean of squared differences.":
            ((seen - mean).square() * m).sum(0) / (count - 1).clamp(min=1),
        "this is not divided: the number of views must not matter.": ((seen - mean).square() * m).sum(0),
        "the mean is not taken off: this is the mean of squares.": squares,
        "this is the mean: agreement is how far the views are from it.": mean,
        "wrong sign: the mean of squares is the larger.": -right,
        "this is the standard deviation: square it.": right.sqrt(),
        "the root is not squared back: mean absolute differences are no variance.": ((seen - mean).abs() * m).sum(0) / n,
        "the mean is over all views, and the difference over those that have the point: the same views in both.":
            ((seen - seen.mean(0)).square() * m).sum(0) / n,
        "what lies beside a picture is 0 here, and still counts as a view: divide by how many have the point.":
            (seen * m).var(0, correction=0),
    }, "m = inside[:, None]; count = m.sum(0); mean = (seen * m).sum(0) / count; then the same with squared differences.")


def check_hull(answer: Callable) -> str:
    """Exercise 2: ``carve(seen, inside)``: the coverage (V, P) that V masks have at P points, and whether the points are in
    these pictures (V, P); (P,), above 0 inside the visual hull, -1/2 far outside, 1/2 deep inside."""
    pictures, cameras, points, seen, inside = looked(1, 152)
    seen, right = seen[:, 0], hull(pictures.movedim(1, -1), cameras, points)
    least = seen.masked_fill(~inside, 0.0)
    return judge(answer(seen, inside), right, {
        "1/2 is missing: the border of a mask is where it is 1/2, and 0 is to be the border here.": right + 0.5,
        "wrong sign: above 0 is to be inside.": -right,
        "this is the largest: a point must be inside in every view, so the least counts.": least.amax(0) - 0.5,
        "this is the mean over the views: one view that sees background there is enough to say no.": least.mean(0) - 0.5,
        "this is the mean over the views, and beside the pictures counts as well.": seen.mean(0) - 0.5,
        "points beside a picture are not left out: nothing is where a view does not look.": seen.amin(0) - 0.5,
        "a view that does not have the point has no say here: it must say no.":
            seen.masked_fill(~inside, 1.0).amin(0) - 0.5,
        "`inside` is turned round: what is *not* in the picture is 0.": seen.masked_fill(inside, 0.0).amin(0) - 0.5,
        "this is the product: the least is enough, and stays 1/2 at the border however many views there are.":
            least.prod(0) - 0.5,
        "this is yes or no: keep the coverage, the surface lies where it passes 1/2.": (right > 0).float() - 0.5,
        "this is yes or no: keep the coverage, the surface lies where it passes 1/2. ": (right > 0).float(),
        "this forgives one view: the least counts, not the second.": least.sort(0).values[1] - 0.5,
    }, "set to 0 what is not inside, take the least over the views, and 1/2 off.").rstrip()


def check_alpha(answer: Callable) -> str:
    """Exercise 3: ``opacity(f, s)``: signed distances (R, N) at places along R rays; NeuS's opacities (R, N - 1) of the
    sections between them."""
    s = 12.0
    f = 0.4 * torch.randn(12, 9, generator=seeded(153)).cumsum(1) / 2 + 0.3
    deep = f.clone()
    deep[0, 3:] = torch.tensor([-20.0, -30.0, -30.0, -40.0, -30.0, -20.0])  # Phi is 0 there to float32
    right, phi = neus_alpha(f, s), (s * f).sigmoid()
    if isinstance(found := answer(deep, s), Tensor) and not found.isfinite().all():
        return "Not yet: 0 / 0 deep inside, where Phi is too small for a float: divide by Phi.clamp(min=1e-7)."
    a, b = phi[:, :-1], phi[:, 1:]
    density = s * phi * (1 - phi)
    return judge(answer(f, s), right, {
        "wrong sign: Phi falls where a ray enters, so the first end comes first.": ((b - a) / a).clamp(min=0),
        "wrong sign, and below 0: the first end comes first, and what is below 0 is 0.": (b - a) / a,
        "below 0 where f rises: a ray that leaves meets no surface, max(..., 0).": (a - b) / a,
        "this takes the size of the change: a ray that leaves meets no surface, max(..., 0).": ((a - b) / a).abs().clamp(0, 1),
        "this takes the size of the change: a ray that leaves meets no surface, max(..., 0). ": ((a - b) / a).abs(),
        "this divides by Phi at the section's far end: take the near one, then alpha is at most 1.": ((a - b) / b).clamp(min=0),
        "this divides by Phi at the section's far end: take the near one, then alpha is at most 1. ": ((a - b) / b).clamp(0, 1),
        "this is not divided: it is the weight of a first surface. Divided by Phi_i it is the share that the section stops.":
            (a - b).clamp(min=0),
        "s is missing: Phi_s(f) = sigmoid(s f).": neus_alpha(f, 1.0),
        "this divides by s: a greater s makes a sharper surface, sigmoid(s f).": neus_alpha(f / s, 1.0),
        "inside and outside are swapped: Phi_s(f) = sigmoid(+ s f), which is 1 outside.": neus_alpha(-f, s),
        "these are weights already: the opacity has no T in it, the next cell multiplies.": alpha_weights(right),
        "this is the naive density, from its mean over the section's ends: NeuS takes the change of Phi over Phi.":
            1 - torch.exp(-(density[:, :-1] + density[:, 1:]) / 2),
    }, "phi = (s * f).sigmoid(); the fall from phi[:, :-1] to phi[:, 1:], over phi[:, :-1], and not below 0.").rstrip()
