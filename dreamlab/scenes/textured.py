"""Surfaces under a texture that learns: what all such scenes share, and a mesh whose shape stays as it is."""
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dreamlab.cameras import Cameras
from dreamlab.checks import Count, Name, Positive, Range, checked, finite
from dreamlab.mesh import Faces, Mesh, Vertices, face_normals, sample, vertex_normals
from dreamlab.meshfile import load_mesh
from dreamlab.render.mesh import antialias, rasterize
from dreamlab.scenes.base import Begin, Scene
from dreamlab.scenes.nerf import HashGrid, through
from dreamlab.types import Render

SIZE = 0.8  # radius of the ball that a mesh of a file is scaled into, a toy's


class Painted(Scene):
    """A surface coloured by a hash grid and a small network: sigmoid(MLP(grid(x))) in the cube of ``radius``, unlit.

    A subclass writes ``surface`` and ``body``, and adds what its surface learns to ``parameters``.
    """

    rates = {"grid": 1e-2, "color": 1e-3}
    meshed = True

    def __init__(self, grid: HashGrid | None, hidden: int, radius: float, generator: torch.Generator | None):
        self.radius, self.hidden = radius, hidden
        self.grid = grid or HashGrid(generator=generator)
        n = sum(table.shape[1] for table in self.grid.tables)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)) if generator else 0)
            self.mlp = nn.Sequential(nn.Linear(n, hidden), nn.ReLU(), nn.Linear(hidden, 3))

    def parameters(self) -> dict[str, Tensor]:
        """The texture's ``grid.LEVEL`` and ``color.*``."""
        grid = {f"grid.{i}": table for i, table in enumerate(self.grid.tables)}
        return grid | {f"color.{name}": p for name, p in self.mlp.named_parameters()}

    def surface(self) -> tuple[Vertices, Faces]:
        """Vertices, with gradients where they learn, and faces."""
        ...

    @staticmethod
    def body(config: dict, leaves: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What the class is made of besides the texture, from a file."""
        ...

    def paint(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Colour at places, in [0, 1]."""
        return through(self.mlp, self.grid((points / self.radius + 1) / 2)).sigmoid()

    def render(self, cameras: Cameras, resolution: int, background: Tensor, generator: torch.Generator | None = None) -> Render:
        """Square images of ``resolution`` pixels over ``background`` (3,) or (B, 3); nothing here is random."""
        return draw(*self.surface(), self.paint, cameras, resolution, background)

    @torch.no_grad()
    def mesh(self) -> Mesh:
        """The surface, coloured at its vertices."""
        vertices, faces = self.surface()
        return Mesh(vertices, faces, self.paint(vertices))

    def config(self) -> dict:
        return {"radius": self.radius, "hidden": self.hidden, "grid": self.grid.config}

    @classmethod
    def rebuild(cls, config: dict, leaves: dict[str, Tensor], prior=None) -> "Painted":
        throwaway = torch.Generator().manual_seed(0)  # the leaves are written over
        scene = cls(*cls.body(config, leaves), HashGrid(**config["grid"], generator=throwaway), config["hidden"],
                    config["radius"], throwaway)
        for module in (scene.grid, scene.mlp):
            module.to(leaves["color.0.weight"].device)
        scene.load_state_dict(leaves)
        return scene

    def count(self) -> dict[str, int]:
        return {"faces": len(self.surface()[1])}


class Textured(Painted):
    """A mesh that keeps its shape to the last bit, watertight or not; only its texture learns.

    Vertices and faces are no leaves: no optimiser gets them and no checkpoint, but a scene's file has them. ValueError for
    faces that name no vertex, and for vertices that are not finite.
    """

    @checked
    def __init__(self, vertices: Vertices, faces: Faces, grid: HashGrid | None = None, hidden: Count = 32,
                 radius: Positive = 1.0, generator: torch.Generator | None = None):
        finite(vertices, "the vertices have", "give others")
        if faces.is_floating_point() or not len(faces) or not 0 <= faces.min() <= faces.max() < len(vertices):
            raise ValueError(f"faces are whole numbers below {len(vertices)}, one a vertex, and at least one face, got "
                             f"{len(faces)} of {faces.dtype}: give others")
        super().__init__(grid, hidden, radius, generator)
        self.kept = {"vertices": vertices.detach().clone(), "faces": faces.detach().clone()}

    @staticmethod
    def body(config: dict, leaves: dict[str, Tensor]) -> tuple[Vertices, Faces]:
        return leaves["vertices"], leaves["faces"]

    def surface(self) -> tuple[Vertices, Faces]:
        return self.kept["vertices"], self.kept["faces"]


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


def fit_colours(scene: Painted, points: Float[Tensor, "n 3"], colours: Float[Tensor, "n 3"], generator: torch.Generator,
                steps: int = 200) -> None:
    """Teach the texture the colours of some points, by Adam on their mean square error."""
    leaves = {name: leaf for name, leaf in scene.parameters().items() if name.split(".")[0] in Painted.rates}
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


def given(begin: Begin, *, file: Name = "", coloured: bool = False, levels: Annotated[int, Range(1, 24)] = 16,
          finest: Annotated[int, Range(16, 2**16)] = 4096, hidden: Annotated[int, Range(1, 256)] = 64) -> Textured:
    """The mesh of a ``file`` (.glb, .obj, .ply or .stl), centred and scaled into the ball of radius 0.8, and else as it is.

    Its texture begins as grey, or, if ``coloured``, with the colours that the file has at its vertices.
    """
    mesh = read(file)
    scene = Textured(mesh.vertices, mesh.faces, texture_grid(levels, finest, begin.generator), hidden,
                     generator=begin.generator)
    if coloured:
        fit_colours(scene, *sample(mesh, 20_000, begin.generator), begin.generator)
    return scene


def read(file: str) -> Mesh:
    """The mesh of a file, to be textured. ValueError or FileNotFoundError where there is none, or where it has no area."""
    if not file:
        raise ValueError("start.file names the mesh to begin with, got '': give --mesh FILE, or --set start.file=FILE")
    mesh = load_mesh(file, SIZE)
    if not (area := face_normals(mesh.vertices, mesh.faces).norm(dim=-1).sum() / 2) > 0:
        raise ValueError(f"the {len(mesh.faces)} triangles of {file} have an area of {area:g}, nothing would be seen: name "
                         "another file")
    return mesh


def texture(begin: Begin, *, of: str = "") -> Textured:
    """The surface that the part ``of`` has made, kept as it is, and its texture to go on with."""
    made = begin.earlier(of)
    if not isinstance(made, Painted):
        raise ValueError(f"start.of must name a part that made a mesh, got {of!r}, which made a {type(made).__name__}: change "
                         "it")
    vertices, faces, _ = vars(made.mesh()).values()
    leaves = {name: leaf for name, leaf in made.state_dict().items() if name.split(".")[0] in Painted.rates}
    return Textured.rebuild(made.config(), leaves | {"vertices": vertices, "faces": faces})
