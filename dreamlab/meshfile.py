"""Meshes of files from other programs: GLB, OBJ, PLY and STL, read by trimesh.

Axes: here z is up and an object faces +x. GLB is y up and faces +z (glTF 2.0, Sec. 3.4), and programs write an OBJ the same:
their (z, x, y) is our (x, y, z), a turn about (1, 1, 1) that mirrors nothing. STL and PLY are read as they are. Colours here
are display values (sRGB); those of a GLB's vertices and materials are linear light.
"""
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dreamlab.checks import Positive, checked, finite, shown
from dreamlab.mesh import Mesh

BACK = [2, 0, 1]  # from the axes of glTF to ours
MOST = 1_000_000  # faces: four views of so many take a core 7 seconds to draw
READS = (".glb", ".obj", ".ply", ".stl")


@checked
def load_mesh(path: Path | str, radius: Positive | None = None) -> Mesh:
    """A mesh of a ``.glb``, ``.obj``, ``.ply`` or ``.stl``, all its objects as one, in our axes; needs trimesh.

    Vertices at the same place are one, in their colours' mean: of the texture there, else the vertices' own, else the
    material's, else grey. Those of no triangle are left out. With ``radius`` it is centred and scaled into the ball of that
    radius; toys have 0.8. An STL comes as large as it is, in mm. ValueError for a file that holds no such mesh,
    FileNotFoundError where there is none.
    """
    path = Path(path)
    mend = f"name a {', '.join(READS[:-1])} or {READS[-1]} of triangles"
    if path.suffix.lower() not in READS:
        raise ValueError(f"{path} is of no format that is read here: {mend}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: {mend}")
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty, 0 bytes: {mend}")
    if not find_spec("trimesh"):
        raise ValueError(f'to read {path} trimesh is needed, which is not installed: pip install -e ".[export]"')
    import trimesh

    try:
        scene = trimesh.load_scene(path, process=False)
        nodes = [(scene.geometry[name], matrix) for matrix, name in map(scene.graph.get, scene.graph.nodes_geometry)]
    except Exception as error:  # whatever a damaged file makes of a reader
        raise ValueError(f"{path} cannot be read ({shown(str(error))}): {mend}") from error
    nodes = [(part, matrix) for part, matrix in nodes if len(getattr(part, "faces", ()))]
    if not nodes:
        raise ValueError(f"{path} holds no triangles (a .ply of Gaussians is read by scenes.gaussians.load_ply): {mend}")
    if (count := sum(len(part.faces) for part, _ in nodes)) > MOST:
        raise ValueError(f"{path} has {count} triangles, at most {MOST} are read: take fewer, by a program that decimates")
    suffix = path.suffix.lower()
    whole = sound(joined(nodes, light=suffix == ".glb"), str(path), mend)
    places, index = whole.vertices[:, BACK if suffix in (".glb", ".obj") else [0, 1, 2]].unique(dim=0, return_inverse=True)
    colours = torch.zeros_like(places).index_add(0, index, whole.colours) / index.bincount(minlength=len(places))[:, None]
    faces = index[whole.faces]
    used, faces = faces[(faces != faces.roll(1, 1)).all(1)].unique(return_inverse=True)  # what has shrunk to a line is left out
    places, colours = places[used], colours[used]
    if radius and len(places):
        places = places - (places.amin(0) + places.amax(0)) / 2
        places = places * (radius / places.norm(dim=-1).max().clamp_min(1e-12))
    return sound(Mesh(places, faces, colours), str(path), mend)


def joined(nodes: list, light: bool) -> Mesh:
    """The trimeshes of a scene, each moved by its matrix (4, 4), as one."""
    vertices, faces, start = [], [], 0
    for part, matrix in nodes:
        vertices.append(part.vertices @ matrix[:3, :3].T + matrix[:3, 3])
        faces.append(start + (part.faces if np.linalg.det(matrix[:3, :3]) > 0 else part.faces[:, ::-1]))  # mirrored
        start += len(part.vertices)
    return Mesh(torch.from_numpy(np.concatenate(vertices)).float(), torch.from_numpy(np.concatenate(faces)).long(),
                torch.cat([seen(part, light) for part, _ in nodes]))


def seen(part, light: bool) -> Float[Tensor, "v 3"]:
    """Display values of a trimesh's vertices; ``light``: the file holds linear light but for textures."""
    visual, n = part.visual, len(part.vertices)
    material = getattr(visual, "material", None)
    image = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
    factor = getattr(material, "baseColorFactor", getattr(material, "diffuse", None))
    if image is not None and getattr(visual, "uv", None) is not None:
        texture = torch.from_numpy(np.array(image.convert("RGB"))).movedim(-1, 0)[None] / 255
        uv = torch.from_numpy(np.array(visual.uv)).float()  # v from below
        uv = torch.where((uv < 0) | (uv > 1), uv - uv.floor(), uv)
        at = 2 * torch.stack([uv[:, 0], 1 - uv[:, 1]], -1) - 1
        return F.grid_sample(texture, at[None, None], padding_mode="border", align_corners=False)[0, :, 0].T
    if (own := getattr(visual, "vertex_attributes", {}).get("color")) is not None or visual.kind in ("vertex", "face"):
        own = visual.vertex_colors if own is None else own
        rgb = torch.from_numpy(np.array(own)[:, :3] / (255 if own.dtype.kind == "u" else 1)).float()
    else:
        rgb = torch.full((n, 3), 0.5) if factor is None else (torch.from_numpy(np.array(factor)[:3]) / 255).float().expand(n, 3)
        light = light and factor is not None
    return display(rgb) if light else rgb


def sound(mesh: Mesh, name: str = "the mesh", mend: str = "make it of a scene that has learnt something") -> Mesh:
    """The mesh in float32 on the CPU. ValueError where there are no faces, faces of vertices that are not there, or a NaN."""
    vertices, faces, colours = (x.detach().cpu() for x in (mesh.vertices, mesh.faces, mesh.colours))
    if not len(faces):
        raise ValueError(f"{name} has no triangles, {len(vertices)} vertices: {mend}")
    if not 0 <= faces.min() <= faces.max() < len(vertices):
        raise ValueError(f"{name} has {len(vertices)} vertices, and faces of those from {faces.min()} to {faces.max()}: {mend}")
    finite(vertices, f"the vertices of {name} have", mend)
    finite(colours, f"the colours of {name} have", mend)
    return Mesh(vertices.float(), faces.long(), colours.float().clamp(0, 1))


def linear(display: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """sRGB's display values as linear light (IEC 61966-2-1)."""
    return torch.where(display <= 0.04045, display / 12.92, ((display + 0.055) / 1.055) ** 2.4)


def display(linear: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """And back."""
    return torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear.clamp_min(0) ** (1 / 2.4) - 0.055)
