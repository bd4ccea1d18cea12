"""A neural radiance field: multi-resolution hash grid (Instant-NGP, arXiv 2201.05989) and two small networks."""
from collections.abc import Callable
from itertools import product
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from dreamlab.cameras import Cameras
from dreamlab.checks import Count, Positive, Range, checked
from dreamlab.render.volume import Occupancy, composite, normals, occupied
from dreamlab.scenes.base import Begin, Scene
from dreamlab.types import Images, Render

PRIMES = (1, 2654435761, 805459861)  # of the spatial hash, Eq. 4


class HashGrid(nn.Module):
    """x in [0, 1]³ -> the features of L grids, each interpolated trilinearly at x, side by side: (n, 3) -> (n, L * F).

    Level l has N_l = floor(base * growth^l) cells a side. Its (N_l + 1)³ corners index a table of ``entries`` rows: one to
    one where they fit, and otherwise through h(x) = xor_i(x_i * prime_i) mod entries (Eq. 4), collisions and all.
    """

    @checked
    def __init__(self, levels: Count = 16, features: Count = 2, entries: Count = 2**19, base: Count = 16,
                 growth: Annotated[float, Range(1)] = 1.447, generator: torch.Generator | None = None):
        super().__init__()
        self.config = {"levels": levels, "features": features, "entries": entries, "base": base, "growth": growth}
        self.resolutions, self.entries = [int(base * growth**level + 1e-6) for level in range(levels)], entries
        self.tables = nn.ParameterList(
            torch.empty(min((n + 1) ** 3, entries), features).uniform_(-1e-4, 1e-4, generator=generator)
            for n in self.resolutions)

    def index(self, corner: Int[Tensor, "n 3"], resolution: int) -> Int[Tensor, "n"]:
        """The row of a corner's features."""
        x, y, z = corner.unbind(-1)
        if (resolution + 1) ** 3 <= self.entries:
            return (x * (resolution + 1) + y) * (resolution + 1) + z
        return (x * PRIMES[0] ^ y * PRIMES[1] ^ z * PRIMES[2]) % self.entries

    def forward(self, x: Float[Tensor, "n 3"]) -> Float[Tensor, "n f"]:
        """The features lie in memory one after the other, each for all points: see :func:`through`."""
        x = x.clamp(0, 1)
        turned = (2 * x - 1).flip(-1)
        return torch.cat([self.dense(turned, n, table) if (n + 1) ** 3 <= self.entries else self.hashed(x, n, table).T
                          for n, table in zip(self.resolutions, self.tables, strict=True)]).T

    def dense(self, turned: Float[Tensor, "n 3"], resolution: int, table: Float[Tensor, "m f"]) -> Float[Tensor, "f n"]:
        """A level whose corners all have rows of their own, at (z, y, x) in [-1, 1]: by torch, many times as fast on a CPU."""
        grid = table.T.unflatten(1, (resolution + 1,) * 3)[None]  # (1, f, x, y, z)
        return F.grid_sample(grid, turned[None, None, None], align_corners=True)[0, :, 0, 0]

    def hashed(self, x: Float[Tensor, "n 3"], resolution: int, table: Float[Tensor, "m f"]) -> Float[Tensor, "n f"]:
        """Any level, from the rows of its eight corners."""
        scaled = x * resolution
        low = scaled.detach().floor().clamp(max=resolution - 1)
        part, low = scaled - low, low.long()
        level = 0
        for offset in product((0, 1), repeat=3):
            corner = torch.tensor(offset, device=x.device)
            weight = torch.where(corner > 0, part, 1 - part).prod(-1, keepdim=True)
            level = level + weight * table.index_select(0, self.index(low + corner, resolution))
        return level


def through(mlp: nn.Sequential, features: Float[Tensor, "n f"], piece: int = 2**14) -> Float[Tensor, "n o"]:
    """The network of two layers, ``mlp(features)``, in less than half the time on a CPU where features are few: points last in
    memory, and in pieces that stay in its cache."""
    first, _, last = mlp
    return torch.cat([torch.addmm(last.bias[:, None], last.weight,
                                  torch.addmm(first.bias[:, None], first.weight, some).relu_())
                      for some in features.T.split(piece, 1)], 1).T


def far_off(mlp: nn.Sequential, directions: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Colours of a background, sigmoid(MLP), from unit directions and their products, which are all up to degree two."""
    i, j = torch.triu_indices(3, 3, device=directions.device)
    return through(mlp, torch.cat([directions, directions[:, i] * directions[:, j]], -1)).sigmoid()


class NeRF(Scene):
    """Density and colour inside the ball of ``radius`` around the origin, over whatever background a render is given.

    density(x) = softplus(MLP(grid(x)) + bias (1 - |x| / width)): the bias makes the start a soft blob, so that there is
    something to colour; 10 and 0.5 are Magic3D's in threestudio, and DreamFlow's. Colour is a sigmoid and does not depend
    on the direction. ``sky``: it also learns what lies behind it, which is seen where a render asks for background None.
    ``samples`` a ray, of which those in empty space cost nothing: on a CPU each render looks where it is
    (:func:`~dreamlab.render.volume.occupied`); on CUDA the first one makes an ``occupancy``, which follows what is learnt: set
    it to None after changing leaves by hand.
    """

    kernels = "nerfacc"
    slow = True
    rates = {"grid": 1e-2, "density": 1e-3, "color": 1e-3, "background": 1e-3}  # threestudio's ProlificDreamer
    channels = 3  # of what its network gives besides the density

    @checked
    def __init__(self, grid: HashGrid | None = None, hidden: Count = 64, radius: Positive = 1.0, samples: Count = 64,
                 bias: float = 10.0, width: Positive = 0.5, sky: bool = False,
                 generator: torch.Generator | None = None):
        self.radius, self.samples, self.bias, self.width, self.hidden = radius, samples, bias, width, hidden
        self.occupancy: Occupancy | None = None
        self.grid = grid or HashGrid(generator=generator)
        n = sum(table.shape[1] for table in self.grid.tables)
        layers = [("density", n, hidden, 1), ("color", n, hidden, self.channels)] + [("background", 9, 16, 3)] * sky
        seed = torch.randint(2**62, (), generator=generator) if generator else 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(seed))
            self.mlps = nn.ModuleDict({name: nn.Sequential(nn.Linear(i, h), nn.ReLU(), nn.Linear(h, out))
                                       for name, i, h, out in layers})

    def parameters(self) -> dict[str, Tensor]:
        """Named leaves: ``grid.LEVEL``, ``density.*``, ``color.*``, ``background.*`` if it has its own."""
        return ({f"grid.{i}": table for i, table in enumerate(self.grid.tables)} | dict(self.mlps.named_parameters()))

    def density(self, points: Float[Tensor, "n 3"], features: Tensor | None = None) -> Float[Tensor, "n"]:
        """Density in 1 / world unit; 0 outside the ball."""
        h = self.encode(points) if features is None else features
        away = points.norm(dim=-1)
        raw = through(self.mlps["density"], h)[:, 0] + self.bias * (1 - away / self.width)
        return F.softplus(raw) * (away <= self.radius)

    def encode(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n f"]:
        return self.grid((points / self.radius + 1) / 2)

    def field(self, points: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, "n"], Float[Tensor, "n 3"]]:
        """Density and colour, from one look into the grid."""
        h = self.encode(points)
        return self.density(points, h), through(self.mlps["color"], h).sigmoid()

    def normals(self, points: Float[Tensor, "n 3"], step: float = 1e-2) -> Float[Tensor, "n 3"]:
        """Unit normals, against the gradient of the density, from central differences ``step`` world units to either side."""
        return normals(self.density, points, step)

    @torch.no_grad()
    def normal_map(self, cameras: Cameras, resolution: int) -> Images:
        """To look at: unit world normals at the mean depth of what each pixel sees, 0 where it sees less than half."""
        render = self.render(cameras, resolution, torch.ones(3))
        points = cameras.to(render.depth.device).unproject(render.depth)
        return self.normals(points.reshape(-1, 3)).reshape(points.shape) * (render.alpha > 0.5)

    def behind(self, directions: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Colours of its own background."""
        return far_off(self.mlps["background"], directions)

    def render(self, cameras: Cameras, resolution: int, background: Tensor | None,
               generator: torch.Generator | None = None) -> Render:
        """As any scene's. ``background`` None: its own. ValueError where it has none."""
        if background is None and "background" not in self.mlps:
            raise ValueError("background is none, which asks for the field's own, and it has none: make it with sky=True, or "
                             "give a colour")
        behind = self.behind if background is None else background
        *seen, samples = self.seen(self.field, cameras, resolution, behind, generator)
        return Render(*seen, samples=samples)

    def seen(self, field: Callable, cameras: Cameras, resolution: int, behind: Tensor | Callable,
             generator: torch.Generator | None) -> tuple:
        """What it shows of a field of its density (:func:`dreamlab.render.volume.composite`)."""
        device = self.grid.tables[0].device
        if device.type == "cuda" and not self.occupancy:
            self.occupancy = Occupancy(self.density, self.radius, self.samples, device)
        if self.occupancy:
            self.occupancy.look()
        occupancy = self.occupancy or occupied(self.density, self.radius, device)
        return composite(field, cameras.to(device), resolution, behind, self.samples, self.radius, generator, occupancy)

    def config(self) -> dict:
        own = {"sky": True} if "background" in self.mlps else {}  # only then, so that files stay what they were
        return {name: getattr(self, name) for name in ("hidden", "radius", "samples", "bias", "width")} | own | {
            "grid": self.grid.config}

    @classmethod
    def rebuild(cls, config: dict, leaves: dict[str, Tensor], prior=None, **more) -> "NeRF":
        throwaway = torch.Generator().manual_seed(0)  # the leaves are written over
        device = next(iter(leaves.values())).device
        scene = cls(HashGrid(**config["grid"], generator=throwaway), **{k: v for k, v in config.items() if k != "grid"},
                    generator=throwaway, **more)
        scene.grid.to(device)
        scene.mlps.to(device)
        scene.load_state_dict(leaves)
        return scene

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        super().load_state_dict(state)
        self.occupancy = None


def blob(begin: Begin, *, levels: Annotated[int, Range(1, 24)] = 16, features: Annotated[int, Range(1, 16)] = 2,
         finest: Annotated[int, Range(16, 2**16)] = 4096, hidden: Annotated[int, Range(1, 256)] = 64,
         samples: Annotated[int, Range(1, 1024)] = 128, radius: Positive = 1.0, sky: bool = False) -> NeRF:
    """A radiance field that begins as a soft blob, with a hash grid from 16 cells a side to ``finest`` (arXiv 2201.05989).

    ``sky``: it learns what lies behind it: set the stage's ``background`` to own then, and give ``rates.background``.
    """
    growth = (finest / 16) ** (1 / max(levels - 1, 1))  # its Eq. 3
    grid = HashGrid(levels, features, growth=growth, generator=begin.generator)
    return NeRF(grid, hidden, radius, samples, sky=sky, generator=begin.generator)
