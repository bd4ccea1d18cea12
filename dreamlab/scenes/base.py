"""What every scene is, how it is written to a file, and what it begins with."""
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from dreamlab.cameras import Cameras
from dreamlab.files import writing
from dreamlab.mesh import Mesh
from dreamlab.priors.base import Prior
from dreamlab.types import Rates, Render


@runtime_checkable
class Scene(Protocol):
    """What renders. A scene writes ``parameters``, ``render`` and ``rebuild``, and inherits the rest from here.

    ``kernels`` is the package that draws it on CUDA, ``rates`` what Adam moves its leaves with where nothing else is said,
    ``dimensions`` 2 for what looks the same from everywhere, ``few`` how many of its parts cost next to nothing,
    ``meshed`` whether :meth:`mesh` is what it draws, ``slow`` whether a CPU needs a second for a picture of it to look at,
    ``kept`` the tensors by name that its file holds and that do not learn.
    Its class stands in the list of :mod:`dreamlab.scenes`.
    """

    kernels: ClassVar[str | None] = None
    rates: ClassVar[Rates] = {}
    dimensions: ClassVar[int] = 3
    few: ClassVar[int] = 1
    meshed: ClassVar[bool] = False
    slow: ClassVar[bool] = False
    kept: Mapping[str, Tensor] = MappingProxyType({})

    def parameters(self) -> dict[str, Tensor]:
        """The leaves by name; ``GROUP.REST`` belongs to a group of leaves with one rate."""
        ...

    def render(self, cameras: Cameras, resolution: int, background: Tensor | None,
               generator: torch.Generator | None = None) -> Render:
        """Square images of ``resolution`` pixels over ``background`` (3,) or (B, 3); jittered if a generator is given.
        Nobody asks for None but of a scene with leaves ``background.*``, which are what lies behind it then."""
        ...

    @classmethod
    def rebuild(cls, config: dict, leaves: dict[str, Tensor], prior: Prior | None = None) -> "Scene":
        """The scene that has these leaves and gave this :meth:`config`. ``prior``: what latents are decoded by."""
        ...

    def config(self) -> dict:
        """What :meth:`rebuild` needs besides the leaves, as JSON can hold it."""
        return {}

    def __len__(self) -> int:
        """How many parts it is made of, where it may have more or fewer."""
        return 1

    def of(self, n: int) -> "Scene":
        """A scene of n parts, which are these again and again, to see what so many would cost."""
        return self

    @property
    def together(self) -> int:
        """How many views it shows at least: 1, or all of several pictures."""
        return 1

    def latent(self, cameras: Cameras | None = None, side: int | None = None, background: Tensor | None = None,
               generator: torch.Generator | None = None) -> Tensor:
        """What a prior may see without a render: a scene of latents has it. ValueError for others."""
        raise ValueError(f"a {type(self).__name__} is not made of latents: set look=rgb, to show the prior its colours")

    def state_dict(self) -> dict[str, Tensor]:
        """The leaves, detached, and what is kept beside them."""
        return {name: leaf.detach() for name, leaf in self.parameters().items()} | self.kept

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over the values of leaves. ValueError, and no change, where names or shapes differ, or what is kept does."""
        if other := [name for name, mine in self.kept.items() if name in state and not torch.equal(state[name].to(mine), mine)]:
            raise ValueError(f"{other[0]} of another {type(self).__name__}: build the one that they were saved from")
        state, mine = {name: leaf for name, leaf in state.items() if name not in self.kept}, self.parameters()
        if {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in mine.items()}:
            here = ", ".join(f"{k} {tuple(v.shape)}" for k, v in mine.items())
            raise ValueError(f"{len(state)} tensors of another {type(self).__name__}, where this one has {here}: build the one "
                             "they were saved from")
        for name, leaf in mine.items():
            leaf.copy_(state[name])

    def to(self, device: torch.device | str) -> "Scene":
        """This scene, or a copy on another device."""
        leaves = self.state_dict()
        if all(leaf.device == torch.device(device) for leaf in leaves.values()):
            return self
        return self.rebuild(self.config(), {name: leaf.to(device) for name, leaf in leaves.items()})

    def count(self) -> dict[str, int]:
        """How many of what it is made of, for a table."""
        return {}

    def mesh(self) -> Mesh:
        """The surface as triangles, with display colours at the vertices. ValueError for a scene that has none."""
        raise ValueError(f"a {type(self).__name__} has no surface to make a mesh of: name a scene that has one")

    def paint(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Colours in [0, 1] at places of that surface: a scene that has :meth:`mesh` has this too."""
        raise ValueError(f"a {type(self).__name__} has no surface to paint: name a scene that has one")

    def export(self, folder: Path) -> dict[str, str]:
        """Write files that other programs read into a folder; returns what each is, by its name."""
        return {}

    def save(self, path: Path | str, **notes) -> None:
        """Leaves, class, config and ``notes`` as safetensors, for :func:`dreamlab.scenes.load`; written aside and renamed."""
        about = json.dumps({"scene": type(self).__name__, "config": self.config()} | notes)
        with writing(path) as part:  # one entry: several have no fixed order in the file
            save_file({name: leaf.cpu().contiguous() for name, leaf in self.state_dict().items()}, part, {"dreamlab": about})


@dataclass(frozen=True)
class Begin:
    """What a start is given: the words, the prior that will look at the scene, random numbers, the scenes of earlier parts.

    A start is a function ``(begin, *, options) -> Scene``; its keyword-only parameters are what settings may name, and its
    return annotation says which scene it makes.
    """

    prompt: str
    prior: Prior
    generator: torch.Generator
    earlier: Callable[[str], Scene]


def own(n: int, generator: torch.Generator) -> None:
    """The background that a scene has of its own, in the place of colours for n views."""


def again(begin: Begin, *, of: str = "") -> Scene:
    """The scene that the part ``of`` has made, to go on with."""
    return begin.earlier(of)
