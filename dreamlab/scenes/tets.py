"""A mesh that learns: signed distances on a grid, of which marching tetrahedra makes a surface at every step (DMTet, arXiv
2111.04276), and a texture over it. How it begins: as a ball, from a radiance field, or from the shape of a points prior."""
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dreamlab.cameras import Cameras, ring
from dreamlab.checks import Count, Inside, Name, Positive, Range, checked
from dreamlab.mesh import (
    Faces,
    Mesh,
    Vertices,
    cut,
    filled,
    large,
    lattice,
    marching_tetrahedra,
    sample,
)
from dreamlab.priors.points import load_points
from dreamlab.render.mesh import rasterize
from dreamlab.scenes.base import Begin
from dreamlab.scenes.nerf import HashGrid, NeRF
from dreamlab.scenes.textured import Painted, draw, fit_colours, texture_grid
from dreamlab.types import Render

Cells = Annotated[int, Range(4, 512)]
MOST = 0.45  # of a cell: how far a corner of the grid may move along each axis
EMPTY = "the shape to begin with is empty: give the part before it more steps, or begin with another shape"


class Tets(Painted):
    """The surface where ``sdf`` = 0 on a grid of n³ corners over ``box``, under a texture.

    sdf = ``start`` + ``sdf`` blurred by one cell: what is learnt is smooth, as a blurred gradient is. Corners move by at most
    0.45 of a cell, 0.45 tanh(``offsets``). The corners on the border are held outside, so the surface is always closed.
    ValueError for a grid that is not n³, and for a render with gradients where there is no surface left.
    """

    rates = {"sdf": 1.5e-3, "offsets": 1e-2} | Painted.rates

    @checked
    def __init__(self, start: Float[Tensor, "n n n"], box: Float[Tensor, "2 3"], grid: HashGrid | None = None,
                 hidden: Count = 32, radius: Positive = 1.0, generator: torch.Generator | None = None):
        super().__init__(grid, hidden, radius, generator)
        self.box = box.detach().clone()
        self.shape = {"start": start.detach().clone(), "sdf": torch.zeros_like(start),
                      "offsets": start.new_zeros(*start.shape, 3)}
        for leaf in self.shape.values():
            leaf.requires_grad_()

    def parameters(self) -> dict[str, Tensor]:
        """``start``, ``sdf``, ``offsets``; the texture's ``grid.LEVEL`` and ``color.*``."""
        return self.shape | super().parameters()

    @staticmethod
    def body(config: dict, leaves: dict[str, Tensor]) -> tuple[Float[Tensor, "n n n"], Float[Tensor, "2 3"]]:
        return leaves["start"], torch.tensor(config["box"])

    def distances(self) -> Float[Tensor, "n n n"]:
        """The signed distances at the corners, about in world units, negative inside."""
        sdf = self.shape["start"] + blurred(self.shape["sdf"])
        inner = torch.zeros_like(sdf, dtype=torch.bool)
        inner[1:-1, 1:-1, 1:-1] = True
        return torch.where(inner, sdf, sdf.clamp(min=1e-4))

    def places(self) -> Float[Tensor, "n n n 3"]:
        """Where the corners are."""
        box, n = self.box.to(self.shape["start"]), len(self.shape["start"])
        return within(box, n) + (box[1] - box[0]) / (n - 1) * MOST * self.shape["offsets"].tanh()

    def surface(self) -> tuple[Vertices, Faces]:
        """Vertices, with gradients, and faces."""
        return marching_tetrahedra(self.distances(), self.places())

    @torch.no_grad()
    def mesh(self) -> Mesh:
        """The surface without its floaters, coloured at its vertices."""
        vertices, faces = clean(*self.surface())
        return Mesh(vertices, faces, self.paint(vertices))

    def render(self, cameras: Cameras, resolution: int, background: Tensor, generator: torch.Generator | None = None) -> Render:
        vertices, faces = self.surface()
        if not len(faces) and torch.is_grad_enabled():
            raise ValueError("no surface is left to draw: begin with a larger shape, or lower the rate of sdf")
        return draw(vertices, faces, self.paint, cameras, resolution, background)

    def config(self) -> dict:
        return super().config() | {"box": self.box.tolist()}


def clean(vertices: Vertices, faces: Faces) -> tuple[Float[Tensor, "u 3"], Int[Tensor, "g 3"]]:
    """The surface without its floaters."""
    return cut(vertices, faces[large(faces, len(vertices))])


def blurred(x: Float[Tensor, "n n n"], sigma: float = 1.0) -> Float[Tensor, "n n n"]:
    """A Gaussian blur of ``sigma`` cells along each axis, 0 beyond the border."""
    weights = torch.exp(-0.5 * (torch.arange(-round(3 * sigma), round(3 * sigma) + 1).to(x) / sigma) ** 2)
    weights, x = (weights / weights.sum()).view(1, 1, -1, 1, 1), x[None, None]
    for axis in range(3):
        x = F.conv3d(x, weights.movedim(2, 2 + axis), padding="same")
    return x[0, 0]


@torch.no_grad()
def signed(occupancy: Float[Tensor, "n n n"], places: Float[Tensor, "n n n 3"]) -> Float[Tensor, "n n n"]:
    """Signed distances at the corners of a grid to the surface where an occupancy is 0, negative where it is above: to 8000
    points of that surface, floaters left out. ValueError where there is none."""
    vertices, faces = clean(*marching_tetrahedra(-occupancy, places))
    if not len(faces):
        raise ValueError(EMPTY)
    points, _ = sample(Mesh(vertices, faces, vertices), 8000, torch.Generator().manual_seed(0))
    far = torch.cat([torch.cdist(some, points).amin(1) for some in places.reshape(-1, 3).split(512)]).view(occupancy.shape)
    return torch.where(occupancy > 0, -far, far)


def within(box: Float[Tensor, "2 3"], corners: int) -> Float[Tensor, "n n n 3"]:
    """The corners of a grid over a box."""
    return box[0] + (lattice(corners, 1.0).to(box) + 1) / 2 * (box[1] - box[0])


def tight(inside: Bool[Tensor, "n n n"], places: Float[Tensor, "n n n 3"], margin: float = 0.1) -> Float[Tensor, "2 3"]:
    """The box of the places that are inside, and around it a ``margin`` of its sides (GeoDream's 10 %, official code), or one
    cell, up to which the surface may be farther out. ValueError where nothing is inside."""
    if not inside.any():
        raise ValueError(EMPTY)
    found, cell = places[inside], places[1, 1, 1] - places[0, 0, 0]
    low, high = found.amin(0), found.amax(0)
    return torch.stack([low, high]) + torch.tensor([[-1.0], [1.0]]) * torch.maximum(margin * (high - low), cell)


@torch.no_grad()
def level(scene: NeRF, n: int = 48) -> float:
    """The density whose surface has the silhouette that the field shows (alpha > 1/2): of twelve levels from 0.5 to 30, the one
    with the greatest intersection over union of both from eight sides."""
    cameras, places = ring(8), lattice(n, scene.radius)
    device = next(iter(scene.parameters().values())).device
    alpha = scene.render(cameras, 64, torch.ones(3)).alpha[..., 0].cpu() > 0.5
    density = scene.density(places.view(-1, 3).to(device)).view(places.shape[:3]).cpu()
    found = {}
    for value in torch.logspace(-0.3, 1.5, 12).tolist():
        shown = rasterize(*marching_tetrahedra(value - density, places), cameras, 64).face >= 0
        found[value] = ((shown & alpha).sum() / (shown | alpha).sum().clamp(min=1)).item()
    return max(found, key=found.get)


def sphere(begin: Begin, *, radius: Inside = 0.5, cells: Cells = 128, levels: Annotated[int, Range(1, 24)] = 16,
           finest: Annotated[int, Range(16, 2**16)] = 4096, hidden: Annotated[int, Range(1, 256)] = 64) -> Tets:
    """A ball of that ``radius`` in the middle of the cube from -1 to 1, of no colour in particular."""
    box = torch.tensor([[-1.0] * 3, [1.0] * 3])
    return Tets(within(box, cells + 1).norm(dim=-1) - radius, box, texture_grid(levels, finest, begin.generator), hidden,
                generator=begin.generator)


@torch.no_grad()
def nerf_to_tets(begin: Begin, *, of: str = "", cells: Cells = 128) -> Tets:
    """The surface that a radiance field shows, with its texture: the hash grid and the network of colour go on as they are.

    The density's level is :func:`level`'s; a first pass over a coarse grid finds the box, a second one the surface in it.
    """
    field = begin.earlier(of)
    if not hasattr(field, "density"):
        raise ValueError(f"start.of names a part that made a NeRF, got {of!r}, which made a {type(field).__name__}: change it")
    leaves, value = field.state_dict(), level(field)
    device = next(iter(leaves.values())).device

    def inside(places: Tensor) -> Tensor:
        return torch.cat([field.density(some.to(device)).cpu() for some in places.reshape(-1, 3).split(1 << 18)]
                         ).view(places.shape[:3]) - value

    coarse = lattice(48, field.radius)
    places = within(box := tight(inside(coarse) > 0, coarse), cells + 1)
    scene = Tets(signed(inside(places), places), box, HashGrid(**field.grid.config, generator=begin.generator), field.hidden,
                 field.radius, generator=begin.generator).to(device)
    for name, leaf in scene.parameters().items():
        if name in leaves:
            leaf.copy_(leaves[name])
    return scene


@torch.no_grad()
def shape(begin: Begin, *, prior: Name = "shap-e", cells: Cells = 128, levels: Annotated[int, Range(1, 24)] = 16,
          finest: Annotated[int, Range(16, 2**16)] = 4096, hidden: Annotated[int, Range(1, 256)] = 64) -> Tets:
    """The shape and the colours that a points prior gives: "toybox", "shap-e", or a folder. Its shell is filled."""
    found = load_points(prior, str(begin.prior.device))
    coarse = lattice(64, 0.95)
    points, colours = found(begin.prompt, 20_000, begin.generator)
    places = within(box := tight(found.shell(begin.prompt, points, coarse) > 0, coarse), cells + 1)
    values = found.shell(begin.prompt, points, places)
    occupancy = torch.where(filled(values > 0) & (values <= 0), 1.0, values)
    scene = Tets(signed(occupancy, places), box, texture_grid(levels, finest, begin.generator), hidden,
                 generator=begin.generator)
    fit_colours(scene, points, colours, begin.generator)
    return scene
