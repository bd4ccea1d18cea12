"""A surface as the zero of signed distances that a small network reads out of a volume (GeoDream, arXiv 2311.17971), drawn as
NeuS draws it (arXiv 2106.10689), under a hash-grid texture. How it begins: as the cost volume of views that a multi-view prior
makes of the prompt."""
from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dreamlab.cameras import Cameras, Fov, orbit
from dreamlab.checks import Count, Name, NotNegative, Positive, Range, checked
from dreamlab.costvolume import Geometry, Reconstruction, Volume, agreeing, blend, centres, cut_out, sample
from dreamlab.mesh import Faces, Mesh, Vertices, lattice, marching_tetrahedra, solid, vertex_normals
from dreamlab.one2345 import One2345, WorldSDF, read_checkpoint
from dreamlab.priors.base import Prior
from dreamlab.render.volume import alpha_weights, inside_ball, neus_alpha
from dreamlab.scenes.base import Begin
from dreamlab.scenes.nerf import HashGrid, far_off
from dreamlab.scenes.tets import EMPTY, Tets, clean, signed, tight, within
from dreamlab.scenes.textured import Painted, fit_colours, texture_grid
from dreamlab.types import Images, Render, Samples
from dreamlab.viewpoints import Around, Circle, Near, Official, source_views

COARSE = 32  # cells a side of the grid of distances that says where along a ray the surface is
COVERED, LEAST = 0.9, 3e-3  # a ball of this radius is drawn; what has less weight is left out


class NeuS(Painted):
    """SDF(x) = f_g(E(x), V(x)), of which V learns and f_g does not (GeoDream), under a texture.

    A ray is cut into ``samples`` sections with the opacity of :func:`~dreamlab.render.volume.neus_alpha`, with ``sharpness`` in
    1 / world unit, which stays as it is. Sections that have less than 0.003 of the light by a coarse grid of distances, and by
    their neighbours, are left out.
    ``geometry``: f_g; its weights are kept in the scene's file. ``sky``: it also learns what lies behind it, which is seen
    where a render asks for background None. ValueError for a volume that is not as wide as f_g reads it.
    """

    rates = {"volume": 1e-2} | Painted.rates | {"background": 1e-3}
    meshed, slow = False, True

    @checked
    def __init__(self, volume: Volume, geometry: Geometry | WorldSDF, sharpness: Positive = 80.0, samples: Count = 64,
                 grid: HashGrid | None = None, hidden: Count = 32, radius: Positive = 1.0, sky: bool = False,
                 generator: torch.Generator | None = None):
        super().__init__(grid, hidden, radius, generator)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)) if sky and generator else 0)
            self.sky = nn.Sequential(nn.Linear(9, 16), nn.ReLU(), nn.Linear(16, 3)) if sky else None
        if len(volume) != (wide := geometry.config["channels"]):
            raise ValueError(f"the geometry's network reads {wide} channels of a volume, got {len(volume)}: take both from one "
                             "reconstruction")
        self.volume, self.sharpness, self.samples = volume.detach().clone().requires_grad_(), sharpness, samples
        self.geometry = geometry.requires_grad_(False)
        self.kept = {f"geometry.{name}": x.clone() for name, x in geometry.state_dict().items()}
        self._coarse: tuple[int, Tensor] | None = None

    def parameters(self) -> dict[str, Tensor]:
        """``volume``; the texture's ``grid.LEVEL`` and ``color.*``; ``background.*`` if it has its own."""
        own = {f"background.{name}": p for name, p in self.sky.named_parameters()} if self.sky else {}
        return {"volume": self.volume} | super().parameters() | own

    def sdf(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        """Signed distances in world units, negative inside."""
        return self.geometry(points, sample(self.volume, points))[0]

    @torch.no_grad()
    def coarse(self) -> Float[Tensor, "1 c c c"]:
        """Signed distances at the centres of a coarse grid: a function of the volume as it is, kept until that changes."""
        version = self.volume._version
        if self._coarse is None or self._coarse[0] != version:
            values = self.sdf(centres(COARSE).view(-1, 3).to(self.volume)).view(1, COARSE, COARSE, COARSE)
            self._coarse = version, values
        return self._coarse[1]

    @torch.no_grad()
    def lit(self, places: Float[Tensor, "r n 3"]) -> Bool[Tensor, "r m"]:
        """Which sections between the places along rays get more than a little of the light, or have a neighbour that does."""
        f = sample(self.coarse(), places.reshape(-1, 3)).view(places.shape[:2])
        w = alpha_weights(neus_alpha(f, self.sharpness))
        return F.max_pool1d((w > LEAST).float()[:, None], 3, 1, 1)[:, 0] > 0

    def render(self, cameras: Cameras, resolution: int, background: Tensor | None,
               generator: torch.Generator | None = None) -> Render:
        """Square images over ``background`` (3,) or (B, 3), None for its own; the places along a ray are moved together by a
        random part of a section if a generator is given. ValueError where it has none of its own."""
        if background is None and self.sky is None:
            raise ValueError("background is none, which asks for the scene's own, and it has none: make it with sky=True, or "
                             "give a colour")
        eyes, directions = cameras.to(self.volume.device).rays(resolution)
        shape = directions.shape[:3]
        along = (directions * cameras.viewmats[:, None, None, 2, :3].to(directions)).sum(-1).flatten()
        origins, directions = eyes[:, None, None].expand(*shape, 3).reshape(-1, 3), directions.reshape(-1, 3)
        near, far = inside_ball(origins, directions, COVERED)
        hit, n = (far > near).nonzero()[:, 0], self.samples
        moved = torch.full((len(hit), 1), 0.5) if generator is None else torch.rand(len(hit), 1, generator=generator)
        step = (far - near)[hit, None] / n
        t = near[hit, None] + step * (torch.arange(n + 1).to(step) + moved.to(step) - 0.5)
        places = origins[hit, None] + t[..., None] * directions[hit, None]
        lit = self.lit(places)
        ends = F.pad(lit, (0, 1)) | F.pad(lit, (1, 0))
        f = places.new_zeros(t.shape).masked_scatter(ends, self.sdf(places[ends]))
        w = alpha_weights(neus_alpha(f, self.sharpness) * lit)
        row, section = (w.detach() > LEAST).nonzero(as_tuple=True)
        middle = (t[row, section] + t[row, section + 1]) / 2
        ray, w = hit[row], w[row, section]
        points = origins[ray] + middle[:, None] * directions[ray]
        seen = w[:, None] * torch.cat([self.paint(points), (middle * along[ray])[:, None], torch.ones_like(w)[:, None]], 1)
        image = seen.new_zeros(len(origins), 5).index_add(0, ray, seen)
        rgb, depth, alpha = image.view(*shape, 5).split([3, 1, 1], -1)
        if background is None:
            behind = far_off(self.sky, directions).view(*shape, 3)
        else:
            behind = background.to(rgb).reshape(-1, 1, 1, 3)
        return Render(rgb + (1 - alpha) * behind, alpha, depth / alpha.clamp(min=1e-10),
                      samples=Samples(points, w.detach(), ray, directions))

    @torch.no_grad()
    def distances(self, places: Float[Tensor, "n n n 3"]) -> Float[Tensor, "n n n"]:
        """Signed distances at the corners of a grid, without closed cavities (:func:`dreamlab.mesh.solid`)."""
        chunks = places.reshape(-1, 3).to(self.volume).split(1 << 16)
        return solid(torch.cat([self.sdf(some) for some in chunks]).view(places.shape[:3]))

    def surface(self, corners: int = 64) -> tuple[Vertices, Faces]:
        """Vertices, without gradients, and faces."""
        places = lattice(corners, COVERED).to(self.volume)
        return marching_tetrahedra(self.distances(places), places)

    def config(self) -> dict:
        return super().config() | {"sharpness": self.sharpness, "samples": self.samples, "geometry": self.geometry.config} | (
            {"sky": True} if self.sky else {})

    @classmethod
    def rebuild(cls, config: dict, leaves: dict[str, Tensor], prior: Prior | None = None) -> "NeuS":
        throwaway = torch.Generator().manual_seed(0)  # the leaves are written over
        geometry = WorldSDF() if "published" in config["geometry"] else Geometry(**config["geometry"])
        geometry.load_state_dict({k.removeprefix("geometry."): x for k, x in leaves.items() if k.startswith("geometry.")})
        device = leaves["volume"].device
        scene = cls(leaves["volume"], geometry.to(device), config["sharpness"], config["samples"],
                    HashGrid(**config["grid"], generator=throwaway), config["hidden"], config["radius"],
                    config.get("sky", False), throwaway)
        for module in filter(None, (scene.grid, scene.mlp, scene.sky)):
            module.to(device)
        scene.load_state_dict(leaves)
        return scene


Levels, Finest, Hidden = Annotated[int, Range(1, 24)], Annotated[int, Range(16, 2**16)], Annotated[int, Range(1, 256)]
EIGHT = Circle()


def network_of(name: str, first: Cameras) -> Reconstruction | One2345:
    """"toybox", a folder of `dreamlab toybox train reconstruction`, or One-2-3-45's as a safetensors file, whose axes are those
    of the ``first`` view. Errors as of :meth:`~dreamlab.costvolume.Reconstruction.load` and
    :func:`~dreamlab.one2345.read_checkpoint`."""
    return read_checkpoint(name, first=first[:1]) if name.endswith(".safetensors") else Reconstruction.load(name)


@torch.no_grad()
def reconstructed(images: Images, masks: Float[Tensor, "v h w 1"], cameras: Cameras, network: str,
                  generator: torch.Generator, sharpness: float, samples: int, grid: HashGrid, hidden: int,
                  coloured: bool = True, sky: bool = False, sure: Sequence[int] = ()) -> NeuS:
    """The cost volume of views on white, those that contradict the others left out
    (:func:`dreamlab.costvolume.agreeing`) but for those that are ``sure``; its texture begins with the colours that they have
    of its surface, if ``coloured``. ValueError for a volume that is empty."""
    found, some = network_of(network, cameras), agreeing(masks, cameras, sure=sure)
    images, masks, cameras = images[some], masks[some], cameras[some]
    scene = NeuS(found([(images, masks, cameras)])[0], found.geometry, sharpness, samples, grid, hidden, sky=sky,
                 generator=generator)
    vertices, faces = clean(*scene.surface())
    if not len(faces):
        raise ValueError(EMPTY)
    if coloured:
        colours, seen = blend(Mesh(vertices, faces, vertices), vertex_normals(vertices, faces), images, cameras)
        fit_colours(scene, vertices[seen], colours[seen], generator)
    return scene


@torch.no_grad()
def cost_volume(begin: Begin, *, views: Name = "toybox-multiview", turn: Name = "toybox-zero123", image: Name | None = None,
                viewpoints: Circle | Official | Near | Around = EIGHT, network: Name = "toybox",
                guidance: Annotated[float, Range(1, 100)] | None = None, coloured: bool = True, samples: Count = 64,
                sharpness: Positive = 80.0, levels: Levels = 16, finest: Finest = 4096, hidden: Hidden = 64,
                sky: bool = False, fov_deg: Fov = 40.0) -> NeuS:
    """The cost volume (by ``network``, :func:`network_of`) of views of the prompt, their background cut away.

    They come from :func:`dreamlab.viewpoints.source_views`: the prior ``views`` makes the references with ``guidance``, or
    its own where none is given, or the reference is the picture ``image``; the prior ``turn`` makes of them what
    ``viewpoints`` lists besides. ``coloured``: the texture begins with the colours that they have, else grey. ``sharpness``:
    softer than the network's own after its training, so that the volume has gradients around its surface. ``sky``: set the
    stage's ``background`` to own then, and give ``rates.background``. ``fov_deg``: of the views, as the priors were trained."""
    network_of(network, orbit(0.0))  # before any work, as it may not be there
    images, cameras = source_views(begin.prompt, viewpoints, begin.generator, views, turn, image, guidance,
                                   begin.prior.device, fov_deg)
    images, masks = cut_out(images)
    grid = texture_grid(levels, finest, begin.generator)
    return reconstructed(images, masks, cameras, network, begin.generator, sharpness, samples, grid, hidden, coloured,
                         sky, () if image is None else (0,)).to(begin.prior.device)


@torch.no_grad()
def random_volume(begin: Begin, *, network: Name = "toybox", spread: NotNegative = 0.5, samples: Count = 64,
                  sharpness: Positive = 80.0, levels: Levels = 16, finest: Finest = 4096, hidden: Hidden = 64) -> NeuS:
    """The same without views, as GeoDream's Fig. 4 (f) has it: normal random numbers of standard deviation ``spread`` in the
    place of a cost volume, which its network reads as a lump."""
    found = network_of(network, orbit(0.0))
    n, channels = found.config["cells"], found.config["channels"]
    volume = spread * torch.randn(channels, n, n, n, generator=begin.generator)
    return NeuS(volume, found.geometry, sharpness, samples, texture_grid(levels, finest, begin.generator), hidden,
                generator=begin.generator).to(begin.prior.device)


@torch.no_grad()
def neus_to_tets(begin: Begin, *, of: str = "", cells: Annotated[int, Range(4, 512)] = 128) -> Tets:
    """The surface of a :class:`NeuS` with its texture, whose hash grid and network go on as they are: a first pass over a
    coarse grid finds the box, and 10 % around it, as the official code does."""
    made = begin.earlier(of)
    if not isinstance(made, NeuS):
        raise ValueError(f"start.of names a part that made a NeuS, got {of!r}, which made a {type(made).__name__}: change it")
    coarse = lattice(48, COVERED)
    places = within(box := tight(made.distances(coarse).cpu() < 0, coarse), cells + 1)
    scene = Tets(signed(-made.distances(places).cpu(), places), box, HashGrid(**made.grid.config, generator=begin.generator),
                 made.hidden, made.radius, generator=begin.generator).to(made.volume.device)
    for name, leaf in scene.parameters().items():
        if name in made.parameters():
            leaf.copy_(made.parameters()[name])
    return scene
