"""3D Gaussians as a scene (arXiv 2308.04079), in gsplat's names."""
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from dreamlab.cameras import Cameras
from dreamlab.files import writing
from dreamlab.render.splat import splat
from dreamlab.types import Render


class Gaussians:
    """N Gaussians, stored as what an optimiser can move freely: log scales, and logits of opacity and colour.

    ``raw`` holds the leaves ``means`` (N, 3) world units, ``quats`` (N, 4) wxyz, ``scales`` (N, 3) log, ``opacities``
    (N,) logit, ``colors`` (N, 3) logit; the properties of the same names give the activated values. Colour does not
    depend on the direction.
    """

    def __init__(self, means: Float[Tensor, "n 3"], quats: Float[Tensor, "n 4"], scales: Float[Tensor, "n 3"],
                 opacities: Float[Tensor, "n"], colors: Float[Tensor, "n 3"]):
        """Activated values: ``scales`` > 0, ``opacities`` and ``colors`` in (0, 1)."""
        logit = lambda x: torch.logit(x.clamp(0.01, 0.99))  # noqa: E731
        raw = {"means": means, "quats": quats, "scales": scales.clamp_min(1e-6).log(), "opacities": logit(opacities),
               "colors": logit(colors)}
        self.raw = {name: value.detach().clone().requires_grad_() for name, value in raw.items()}

    @classmethod
    def from_raw(cls, raw: dict[str, Tensor]) -> "Gaussians":
        """Gaussians of given leaves, bit for bit: what ``parameters`` gives and a file holds."""
        n = len(raw["means"]) if "means" in raw else 0
        shapes = {"means": (n, 3), "quats": (n, 4), "scales": (n, 3), "opacities": (n,), "colors": (n, 3)}
        if (got := {name: tuple(value.shape) for name, value in raw.items()}) != shapes:
            raise ValueError(f"Gaussians are made of {shapes}, got {got}")
        scene = cls.__new__(cls)
        scene.raw = {name: raw[name].detach().clone().requires_grad_() for name in shapes}
        return scene

    @classmethod
    def from_points(cls, points: Float[Tensor, "n 3"], colors: Float[Tensor, "n 3"], opacity: float = 0.1,
                    spread: float = 1.0) -> "Gaussians":
        """A ball at every point, ``spread`` times as wide as the rms distance to its three nearest neighbours."""
        if len(points) < 4:
            raise ValueError(f"from_points needs at least 4 points to find three neighbours, got {len(points)}")
        if len(colors) != len(points):
            raise ValueError(f"from_points needs a colour for each point, got {len(points)} points and {len(colors)} colours")
        if not (0 < opacity < 1 and spread > 0):
            raise ValueError(f"opacity must lie in (0, 1) and spread above 0, got {opacity:g} and {spread:g}")
        near = [torch.cdist(some, points).topk(4, largest=False).values[:, 1:] for some in points.split(512)]
        scale = spread * torch.cat(near).square().mean(-1).sqrt().clamp_min(1e-4)
        quats = torch.tensor([1.0, 0, 0, 0]).repeat(len(points), 1).to(points)
        return cls(points, quats, scale[:, None].repeat(1, 3), torch.full_like(scale, opacity), colors)

    @classmethod
    def ball(cls, n: int, radius: float = 0.6, opacity: float = 0.3, spread: float = 1.0, *,
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

    def to(self, device) -> "Gaussians":
        """A copy on another device."""
        return Gaussians.from_raw({name: value.to(device) for name, value in self.state_dict().items()})

    def parameters(self) -> dict[str, Tensor]:
        """The leaves by group name."""
        return dict(self.raw)

    def render(self, cameras: Cameras, resolution: int, background: Tensor, generator: torch.Generator | None = None) -> Render:
        """Square images of ``resolution`` pixels over ``background`` (3,) or (B, 3); nothing here is random."""
        return splat(self.means, self.quats, self.scales, self.opacities, self.colors, cameras, resolution, background)

    def state_dict(self) -> dict[str, Tensor]:
        """The leaves, detached."""
        return {name: value.detach() for name, value in self.raw.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over leaves; their number may differ. An optimiser of the old ones must be made anew."""
        self.raw = Gaussians.from_raw(state).raw

    def save(self, path: Path) -> None:
        """The leaves as safetensors, written aside and renamed."""
        with writing(path) as part:
            save_file({name: value.contiguous() for name, value in self.state_dict().items()}, part)

    @classmethod
    def load(cls, path: Path) -> "Gaussians":
        return cls.from_raw(load_file(path))
