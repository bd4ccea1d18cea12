"""A mesh that learns: signed distances on a grid, of which marching tetrahedra makes a surface at every step (DMTet, arXiv
2111.04276), and a texture field over it. How it begins: from a radiance field, from points, or from a mesh of a file."""
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dreamlab.cameras import Cameras, ring
from dreamlab.checks import Count, Name, Positive, Range, checked
from dreamlab.mesh import (
    Faces,
    Mesh,
    Vertices,
    cut,
    large,
    lattice,
    marching_tetrahedra,
    sample,
    vertex_normals,
)
from dreamlab.priors.points import load_points
from dreamlab.render.mesh import antialias, rasterize
from dreamlab.scenes.base import Begin, Scene
from dreamlab.scenes.nerf import HashGrid, NeRF
from dreamlab.types import Render

Cells = Annotated[int, Range(4, 512)]
MOST = 0.45  # of a cell: how far a corner of the grid may move along each axis
EMPTY = "the shape to begin with is empty: give the part before it more steps, or begin with another shape"


class Tets(Scene):
    """The surface where ``sdf`` = 0 on a grid of n³ corners over ``box``, coloured by a hash grid and a small network.

    sdf = ``start`` + ``sdf`` blurred by one cell: what is learnt is smooth, as a blurred gradient is. Corners move by at most
    0.45 of a cell, 0.45 tanh(``offsets``). The corners on the border are held outside, so the surface is always closed. Colour
    is sigmoid(MLP(grid(x))) in the cube of ``radius``, unlit. With ``frozen`` the surface is made once, without its floaters
    (:func:`dreamlab.mesh.large`), and only the texture learns. ValueError for a grid that is not n³, and for a render with
    gradients where there is no surface left.
    """

    rates = {"sdf": 1.5e-3, "offsets": 1e-2, "grid": 1e-2, "color": 1e-3}

    @checked
    def __init__(self, start: Float[Tensor, "n n n"], box: Float[Tensor, "2 3"], grid: HashGrid | None = None,
                 hidden: Count = 32, radius: Positive = 1.0, frozen: bool = False, generator: torch.Generator | None = None):
        self.radius, self.hidden, self.frozen, self.box = radius, hidden, frozen, box.detach().clone()
        self.grid = grid or HashGrid(generator=generator)
        n = sum(table.shape[1] for table in self.grid.tables)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)) if generator else 0)
            self.mlp = nn.Sequential(nn.Linear(n, hidden), nn.ReLU(), nn.Linear(hidden, 3))
        self.shape = {"start": start.detach().clone(), "sdf": torch.zeros_like(start),
                      "offsets": start.new_zeros(*start.shape, 3)}
        for leaf in self.shape.values():
            leaf.requires_grad_(not frozen)
        if frozen:
            self.rates = {name: rate for name, rate in self.rates.items() if name not in self.shape}
        self._made: tuple[Vertices, Faces] | None = None

    def parameters(self) -> dict[str, Tensor]:
        """``start``, ``sdf``, ``offsets``; the texture's ``grid.LEVEL`` and ``color.*``."""
        texture = {f"grid.{i}": table for i, table in enumerate(self.grid.tables)}
        return self.shape | texture | {f"color.{name}": p for name, p in self.mlp.named_parameters()}

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
        """Vertices, with gradients unless it is ``frozen``, and faces."""
        if not self.frozen:
            return marching_tetrahedra(self.distances(), self.places())
        if self._made is None:
            self._made = clean(*marching_tetrahedra(self.distances(), self.places()))
        return self._made

    @torch.no_grad()
    def mesh(self) -> Mesh:
        """The surface without its floaters, coloured at its vertices."""
        vertices, faces = clean(*self.surface())
        return Mesh(vertices, faces, self.paint(vertices))

    def paint(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Colour at places, in [0, 1]."""
        return self.mlp(self.grid((points / self.radius + 1) / 2)).sigmoid()

    def render(self, cameras: Cameras, resolution: int, background: Tensor, generator: torch.Generator | None = None) -> Render:
        """Square images of ``resolution`` pixels over ``background`` (3,) or (B, 3); nothing here is random."""
        vertices, faces = self.surface()
        if not len(faces) and torch.is_grad_enabled():
            raise ValueError("no surface is left to draw: begin with a larger shape, or lower the rate of sdf")
        return draw(vertices, faces, self.paint, cameras, resolution, background)

    def config(self) -> dict:
        return {"box": self.box.tolist(), "radius": self.radius, "hidden": self.hidden, "frozen": self.frozen,
                "grid": self.grid.config}

    @classmethod
    def rebuild(cls, config: dict, leaves: dict[str, Tensor], prior=None) -> "Tets":
        throwaway = torch.Generator().manual_seed(0)  # the leaves are written over
        scene = cls(leaves["start"], torch.tensor(config["box"]), HashGrid(**config["grid"], generator=throwaway),
                    config["hidden"], config["radius"], config["frozen"], throwaway)
        scene.grid.to(leaves["start"].device)
        scene.mlp.to(leaves["start"].device)
        scene.load_state_dict(leaves)
        return scene

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        super().load_state_dict(state)
        self._made = None

    def count(self) -> dict[str, int]:
        return {"faces": len(self.surface()[1])}


def draw(vertices: Vertices, faces: Faces, paint, cameras: Cameras, resolution: int, background: Tensor) -> Render:
    """A mesh under a function ``paint(points (n, 3)) -> rgb (n, 3)``: colour, coverage, depth, and world normals times
    coverage, smooth over the faces, all with silhouettes drawn by area."""
    seen = rasterize(vertices, faces, cameras, resolution)
    hit = (seen.face >= 0)[..., None]
    looked = seen.interpolate(torch.cat([vertices, vertex_normals(vertices, faces)], 1))
    places, normals = looked.split(3, -1)
    rgb = torch.zeros_like(places).masked_scatter(hit, paint(places[hit[..., 0]]))
    forward = cameras.viewmats.to(places)[:, None, None, 2]
    depth = ((places * forward[..., :3]).sum(-1, keepdim=True) + forward[..., 3:]) * hit
    image = antialias(torch.cat([rgb, hit.to(rgb), depth, F.normalize(normals, dim=-1)], -1), seen)
    rgb, alpha, depth, normals = image.split([3, 1, 1, 3], -1)
    behind = background.to(rgb).reshape(-1, 1, 1, 3)
    return Render(rgb + (1 - alpha) * behind, alpha, depth / alpha.clamp(min=1e-10), normals)


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


def filled(shell: Bool[Tensor, "n n n"]) -> Bool[Tensor, "n n n"]:
    """A shell and what it encloses: all that cannot be reached from the border, from cell to cell through their sides."""
    wall, reached = shell.float()[None, None], torch.zeros_like(shell)
    for axis in range(3):
        reached.select(axis, 0)[:] = reached.select(axis, -1)[:] = True
    reached = reached.float()[None, None] * (1 - wall)
    while True:
        grown = sum(F.max_pool3d(reached, side, 1, [k // 2 for k in side]) for side in ((3, 1, 1), (1, 3, 1), (1, 1, 3)))
        grown = (grown > 0) * (1 - wall)
        if torch.equal(grown, reached):
            return reached[0, 0] == 0
        reached = grown


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


def fit_colours(scene: Tets, points: Float[Tensor, "n 3"], colours: Float[Tensor, "n 3"], generator: torch.Generator,
                steps: int = 200) -> None:
    """Teach the texture the colours of some points, by Adam on their mean square error."""
    leaves = {name: leaf for name, leaf in scene.parameters().items() if name.split(".")[0] in ("grid", "color")}
    optimiser = torch.optim.Adam([{"params": [leaf], "lr": 1e-2} for leaf in leaves.values()])
    for _ in range(steps):
        some = torch.randint(len(points), (2048,), generator=generator).to(points.device)
        with torch.enable_grad():
            loss = (scene.paint(points[some]) - colours[some]).square().mean()
            found = torch.autograd.grad(loss, list(leaves.values()))
        for leaf, gradient in zip(leaves.values(), found, strict=True):
            leaf.grad = gradient
        optimiser.step()
    for leaf in leaves.values():
        leaf.grad = None


def texture_grid(levels: int, finest: int, generator: torch.Generator) -> HashGrid:
    """A hash grid from 16 cells a side to ``finest``."""
    return HashGrid(levels, growth=(finest / 16) ** (1 / max(levels - 1, 1)), generator=generator)


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


def texture(begin: Begin, *, of: str = "") -> Tets:
    """What the part ``of`` has made, its surface kept as it is: only the texture learns."""
    made = begin.earlier(of)
    if not isinstance(made, Tets):
        raise ValueError(f"start.of names a part that made Tets, got {of!r}, which made a {type(made).__name__}: change it")
    return Tets.rebuild(made.config() | {"frozen": True}, made.state_dict())
