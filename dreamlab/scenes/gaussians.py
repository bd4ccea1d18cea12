"""3D Gaussians as a scene (arXiv 2308.04079), in gsplat's names; how they begin, and the ``.ply`` that viewers read."""
import math
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dreamlab.cameras import Cameras
from dreamlab.checks import Inside, Name, Positive, Range, checked, finite, shown
from dreamlab.files import check_weights, load_weights, writing
from dreamlab.mesh import Mesh
from dreamlab.priors.points import load_points
from dreamlab.render.splat import splat
from dreamlab.scenes.base import Begin, Scene
from dreamlab.types import Render

Points = Annotated[int, Range(4, 10**6)]  # four have three neighbours each
SH0 = 0.28209479177387814  # 1 / (2 sqrt(pi)), the constant spherical harmonic: rgb = 0.5 + SH0 * f_dc
COLUMNS = ("x y z nx ny nz f_dc_0 f_dc_1 f_dc_2 opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3").split()


class Gaussians(Scene):
    """N Gaussians, stored as what an optimiser can move freely: log scales, and logits of opacity and colour.

    ``raw`` holds the leaves ``means`` (N, 3) world units, ``quats`` (N, 4) wxyz, ``scales`` (N, 3) log, ``opacities``
    (N,) logit, ``colors`` (N, 3) logit; the properties of the same names give the activated values. Colour does not
    depend on the direction.
    """

    kernels, few = "gsplat", 2000
    rates = {"means": 4e-3, "scales": 1e-2, "quats": 1e-2, "opacities": 3e-2, "colors": 4e-2}

    @checked
    def __init__(self, means: Float[Tensor, "n 3"], quats: Float[Tensor, "n 4"], scales: Float[Tensor, "n 3"],
                 opacities: Float[Tensor, "n"], colors: Float[Tensor, "n 3"]):
        """Activated values: ``scales`` > 0, ``opacities`` and ``colors`` in (0, 1)."""
        logit = lambda x: torch.logit(x.clamp(0.01, 0.99))  # noqa: E731
        raw = {"means": means, "quats": quats, "scales": scales.clamp_min(1e-6).log(), "opacities": logit(opacities),
               "colors": logit(colors)}
        self.raw = {name: value.detach().clone().requires_grad_() for name, value in raw.items()}

    @staticmethod
    def shapes(n: int) -> dict[str, tuple[int, ...]]:
        """Of the leaves of n Gaussians."""
        return {"means": (n, 3), "quats": (n, 4), "scales": (n, 3), "opacities": (n,), "colors": (n, 3)}

    @classmethod
    @checked
    def from_raw(cls, raw: dict[str, Tensor]) -> "Gaussians":
        """Gaussians of given leaves, bit for bit: what ``parameters`` gives and a file holds."""
        shapes = cls.shapes(len(raw["means"]) if "means" in raw else 0)
        for name in sorted(shapes.keys() | raw.keys()):
            x = raw.get(name)
            if x is None or x.shape != shapes.get(name) or x.dtype != torch.float32:
                raise ValueError(f"Gaussians are made of float32 tensors {shapes}, got {name} = {shown(x)}: give those alone")
        scene = cls.__new__(cls)
        scene.raw = {name: raw[name].detach().clone().requires_grad_() for name in shapes}
        return scene

    @classmethod
    @checked
    def from_points(cls, points: Float[Tensor, "n 3"], colors: Float[Tensor, "n 3"], opacity: Inside = 0.1,
                    spread: Positive = 1.0) -> "Gaussians":
        """A ball at every point, ``spread`` times as wide as the rms distance to its three nearest neighbours."""
        if len(points) < 4:
            raise ValueError(f"from_points needs at least 4 points to find three neighbours, got {len(points)}: give more")
        if len(colors) != len(points):
            raise ValueError(f"from_points needs a colour for each point, got {len(points)} points and {len(colors)} colours: "
                             "give as many")
        scale = spread * nearest(points).square().mean(-1).sqrt().clamp_min(1e-4)
        quats = torch.tensor([1.0, 0, 0, 0]).repeat(len(points), 1).to(points)
        return cls(points, quats, scale[:, None].repeat(1, 3), torch.full_like(scale, opacity), colors)

    @classmethod
    @checked
    def ball(cls, n: Points, radius: Positive = 0.6, opacity: Inside = 0.3, spread: Positive = 1.0, *,
             generator: torch.Generator) -> "Gaussians":
        """n grey Gaussians spread evenly through a ball: a start that knows nothing of the prompt."""
        direction = torch.nn.functional.normalize(torch.randn(n, 3, generator=generator), dim=-1)
        points = radius * direction * torch.rand(n, 1, generator=generator) ** (1 / 3)
        return cls.from_points(points, torch.full((n, 3), 0.5), opacity, spread)

    means = property(lambda self: self.raw["means"])
    quats = property(lambda self: self.raw["quats"])
    scales = property(lambda self: self.raw["scales"].exp())
    opacities = property(lambda self: self.raw["opacities"].sigmoid())
    colors = property(lambda self: self.raw["colors"].sigmoid())

    def __len__(self) -> int:
        return len(self.means)

    def parameters(self) -> dict[str, Tensor]:
        """The leaves by group name."""
        return dict(self.raw)

    def render(self, cameras: Cameras, resolution: int, background: Tensor, generator: torch.Generator | None = None) -> Render:
        """Square images of ``resolution`` pixels over ``background`` (3,) or (B, 3); nothing here is random."""
        return splat(self.means, self.quats, self.scales, self.opacities, self.colors, cameras, resolution, background)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over leaves; where their number differs they are new tensors, and an optimiser of the old ones is outdated."""
        new = Gaussians.from_raw(state).raw  # checks them
        if len(new["means"]) == len(self):
            super().load_state_dict(state)
        else:
            self.raw = new

    @classmethod
    def rebuild(cls, config: dict, leaves: dict[str, Tensor], prior=None) -> "Gaussians":
        return cls.from_raw(leaves)

    @classmethod
    @checked
    def load(cls, path: Path | str) -> "Gaussians":
        """From a scene's file, or a file of the leaves alone. ``files.Refused`` (a ValueError) for other leaves, or a NaN."""
        mend = "name the scene.safetensors of a run"
        raw = load_weights(path, mend)
        check_weights(path, raw, cls.shapes(len(raw.get("means", ()))), mend)
        return cls.from_raw(raw)

    def count(self) -> dict[str, int]:
        return {"gaussians": len(self)}

    def of(self, n: int) -> "Gaussians":
        """n Gaussians, which are these again and again, together as large as before."""
        again = {name: leaf[torch.arange(n, device=leaf.device) % len(leaf)] for name, leaf in self.state_dict().items()}
        again["scales"] = again["scales"] - math.log(n / len(self)) / 3
        return Gaussians.from_raw(again)

    def mesh(self) -> Mesh:
        raise ValueError("Gaussians have no surface to make a mesh of: export them as a .ply (--ply) or a page (--page)")

    def export(self, folder: Path) -> dict[str, str]:
        save_ply(self, Path(folder) / "gaussians.ply")
        return {"gaussians.ply": f"{len(self)} Gaussians, for any 3DGS viewer"}


def nearest(points: Float[Tensor, "n 3"], k: int = 3, many: int = 2**16) -> Float[Tensor, "n k"]:
    """The distances to each point's k nearest others. Among ``many`` the pieces of a k-d tree look only as far as they must."""
    def pieces(index: Tensor) -> list[Tensor]:
        if len(index) <= 512:
            return [index]
        axis = int((points[index].amax(0) - points[index].amin(0)).argmax())
        return [piece for half in index[points[index, axis].argsort()].chunk(2) for piece in pieces(half)]

    whole, found = torch.arange(len(points), device=points.device), points.new_empty(len(points), k)
    for piece in pieces(whole) if len(points) > many else whole.split(512):
        some, others = points[piece], points
        if len(points) > many:
            reach = torch.cdist(some, some).topk(k + 1, largest=False).values.max()
            others = points[((points >= some.amin(0) - reach) & (points <= some.amax(0) + reach)).all(-1)]
        found[piece] = torch.cdist(some, others).topk(k + 1, largest=False).values[:, 1:]
    return found


def points(begin: Begin, *, prior: Name = "shap-e", points: Points = 50_000, opacity: Inside = 0.1,
           spread: Positive = 1.0) -> Gaussians:
    """A Gaussian at each coloured point of a points prior: "toybox", "shap-e", or a folder."""
    found, colours = load_points(prior, str(begin.prior.device))(begin.prompt, points, begin.generator)
    return Gaussians.from_points(found, colours, opacity, spread)


def ball(begin: Begin, *, points: Points = 5000, radius: Positive = 0.6, opacity: Inside = 0.3,
         spread: Positive = 1.0) -> Gaussians:
    """A grey ball, which knows nothing of the prompt: shows Janus."""
    return Gaussians.ball(points, radius, opacity, spread, generator=begin.generator)


def save_ply(scene: Gaussians, path: Path | str) -> None:
    """Write :func:`as_ply`, aside and renamed."""
    with writing(path) as part:
        part.write_bytes(as_ply(scene))


def as_ply(scene: Gaussians) -> bytes:
    """The layout of the 3DGS authors (INRIA), which viewers read: little-endian float32 rows of ``COLUMNS``.

    Normals are 0; ``f_dc = (rgb - 0.5) / SH0``; ``opacity`` is a logit, ``scale`` a log, ``rot`` wxyz of any norm.
    """
    raw = {name: value.detach().float().cpu() for name, value in scene.parameters().items()}
    f_dc = (scene.colors.detach().float().cpu() - 0.5) / SH0
    normals = torch.zeros_like(raw["means"])
    rows = torch.cat([raw["means"], normals, f_dc, raw["opacities"][:, None], raw["scales"], raw["quats"]], 1)
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(rows)}",
              *(f"property float {name}" for name in COLUMNS), "end_header", ""]
    return "\n".join(header).encode() + rows.numpy().astype("<f4").tobytes()


@checked
def load_ply(path: Path | str) -> Gaussians:
    """Gaussians of a 3DGS ``.ply`` of float columns in any order. Colour that depends on the direction (``f_rest_*``)
    is left out, and colour outside [0, 1] is clamped. ValueError where the file is no such ``.ply``."""
    try:
        head, end, body = Path(path).read_bytes().partition(b"end_header\n")
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"{str(path)!r} cannot be read ({error}): name a .ply") from error
    lines = [line.split() for line in head.decode("ascii", "replace").splitlines()]
    names = [line[2] for line in lines if line[:2] == ["property", "float"]]
    counts = [int(line[2]) for line in lines if line[:1] == ["element"]]
    if not end or ["format", "binary_little_endian", "1.0"] not in lines or len(counts) != 1:
        raise ValueError(f"{path} must be a binary little-endian .ply with one element, the vertices: name another")
    if missing := [name for name in COLUMNS if name not in names and name[0] != "n"]:
        raise ValueError(f"{path} lacks the float columns {missing} of a 3DGS .ply: name another")
    if len(names) != sum(line[:1] == ["property"] for line in lines) or len(body) != 4 * len(names) * counts[0]:
        raise ValueError(f"{path} must hold {counts[0]} rows of float32 alone, it is cut short or has other types: "
                         "name another")
    rows = torch.from_numpy(np.frombuffer(body, "<f4").astype(np.float32)).reshape(counts[0], -1)
    pick = lambda *prefixes: rows[:, [names.index(c) for c in COLUMNS if c.startswith(prefixes)]]  # noqa: E731
    finite(pick("x", "y", "z", "f_dc_", "opacity", "scale_", "rot_"), f"{path} has", "name another")
    rgb = (0.5 + SH0 * pick("f_dc_")).clamp(1e-6, 1 - 1e-6)
    return Gaussians.from_raw(dict(means=pick("x", "y", "z"), quats=pick("rot_"), scales=pick("scale_"),
                                   opacities=pick("opacity")[:, 0], colors=rgb.logit()))
