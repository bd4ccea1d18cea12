"""Meshes for other programs (GLB, OBJ, STL), and a page to turn a mesh or splats in a browser, offline.

Axes: here z is up and an object faces +x. GLB is y up and faces +z (glTF 2.0, Sec. 3.4), and programs take an OBJ for the same:
(x, y, z) is written as (y, z, x), a turn about (1, 1, 1) that mirrors nothing. STL and PLY stay as they are.

Colours here are display values (sRGB). A texture holds them as they are, while ``COLOR_0`` of a GLB is linear light. They have
the light of the scene in them, so the material is unlit (KHR_materials_unlit). The GLB is written here, not by trimesh, which
has no such material, and 8 bits for a vertex colour: too few for linear light, dark ones would be off by up to 6 of 255.
"""
import base64
import io
import json
import struct
from html import escape
from itertools import zip_longest
from pathlib import Path
from string import Template
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from dreamlab import __version__
from dreamlab.atlas import Atlas, Paint, textured
from dreamlab.checks import Positive, Range, checked
from dreamlab.export import to_uint8
from dreamlab.files import write_text, writing
from dreamlab.mesh import Mesh, watertight
from dreamlab.meshfile import linear, sound
from dreamlab.scenes.gaussians import Gaussians, as_ply

Texels = Annotated[int, Range(16, 4096)]
OUT = [1, 2, 0]  # from our axes to those of glTF


@checked
def save_glb(mesh: Mesh, path: Path | str, paint: Paint | None = None, texels: Texels = 512) -> str:
    """A binary glTF 2.0, unlit, and returns what it holds in words. With ``paint`` it has a texture of ``texels`` a side, which
    asks ``paint`` for the colour at each texel's place on the surface; without it, or without xatlas, colours at the vertices.

    ``paint(points (n, 3)) -> rgb (n, 3)`` in [0, 1]. 8,000 triangles take about a second, 15,000 four. ValueError for a mesh
    without faces or with NaN.
    """
    data, said = glb(mesh, paint, texels)
    with writing(path) as part:
        part.write_bytes(data)
    return said


def glb(mesh: Mesh, paint: Paint | None, texels: int) -> tuple[bytes, str]:
    """The bytes of :func:`save_glb`: a chunk of JSON and one of arrays, each view of these at a multiple of 4 bytes."""
    whole, atlas, said = dressed(mesh, paint, texels)
    if atlas:
        faces, arrays = atlas.faces, {"POSITION": whole.vertices[atlas.origin][:, OUT], "TEXCOORD_0": atlas.uv}
    else:
        faces, arrays = whole.faces, {"POSITION": whole.vertices[:, OUT], "COLOR_0": linear(whole.colours)}
    views = [x.numpy().astype("<f4").tobytes() for x in arrays.values()] + [faces.numpy().astype("<u4").tobytes()]
    targets = [34962] * len(arrays) + [34963]  # ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER
    accessors = [{"bufferView": i, "componentType": 5126, "count": len(x), "type": f"VEC{x.shape[1]}"}  # float32
                 for i, x in enumerate(arrays.values())]
    accessors[0] |= {"min": arrays["POSITION"].amin(0).tolist(), "max": arrays["POSITION"].amax(0).tolist()}
    accessors.append({"bufferView": len(arrays), "componentType": 5125, "count": faces.numel(), "type": "SCALAR"})  # uint32
    primitive = {"attributes": {name: i for i, name in enumerate(arrays)}, "indices": len(arrays), "material": 0}
    material = {"pbrMetallicRoughness": {"metallicFactor": 0}, "doubleSided": True, "extensions": {"KHR_materials_unlit": {}}}
    tree = {"asset": {"version": "2.0", "generator": f"dreamlab {__version__}"}, "extensionsUsed": ["KHR_materials_unlit"],
            "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0}], "meshes": [{"primitives": [primitive]}],
            "materials": [material], "accessors": accessors, "bufferViews": []}
    if atlas:
        material["pbrMetallicRoughness"]["baseColorTexture"] = {"index": 0}
        smooth, edges = {"magFilter": 9729, "minFilter": 9987}, {"wrapS": 33071, "wrapT": 33071}  # mipmaps; clamped
        tree |= {"textures": [{"source": 0, "sampler": 0}], "samplers": [smooth | edges],
                 "images": [{"bufferView": len(views), "mimeType": "image/png"}]}
        views.append(as_png(atlas.image))
    body = b""
    for view, target in zip_longest(views, targets):
        about = {"buffer": 0, "byteOffset": len(body), "byteLength": len(view)}
        tree["bufferViews"].append(about | ({"target": target} if target else {}))
        body += view + bytes(-len(view) % 4)
    tree["buffers"] = [{"byteLength": len(body)}]
    head = json.dumps(tree, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 4)
    chunks = struct.pack("<I4s", len(head), b"JSON") + head + struct.pack("<I4s", len(body), b"BIN\0") + body
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks, said


def dressed(mesh: Mesh, paint: Paint | None, texels: int) -> tuple[Mesh, Atlas | None, str]:
    """The mesh on the CPU, its atlas where there can be one, and both in words."""
    whole = sound(mesh)
    atlas = textured(whole, lambda points: paint(points.to(mesh.vertices.device)), texels) if paint else None
    missing = ' (for a texture: pip install -e ".[export]")' if paint else ""
    said = f"a texture of {texels} x {texels}" if atlas else f"colours at its {len(whole.vertices)} vertices{missing}"
    return whole, atlas, f"{len(whole.faces)} triangles, {said}"


def as_png(image: Float[Tensor, "t t 3"]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(to_uint8(image)).save(file, "png")
    return file.getvalue()


@checked
def save_obj(mesh: Mesh, path: Path | str, paint: Paint | None = None, texels: Texels = 512) -> str:
    """A Wavefront OBJ, y up like a GLB, and returns what it holds in words. With ``paint`` (and xatlas) a ``.mtl`` and a
    ``.png`` of its name lie beside it, else a vertex's colour follows its coordinates. ValueErrors as of a GLB."""
    path, (whole, atlas, said) = Path(path), dressed(mesh, paint, texels)
    rows, corners = whole.vertices[:, OUT], [str(i) for i in (whole.faces + 1).flatten().tolist()]
    lines = []
    if atlas:
        name = "_".join(path.stem.split())  # a space would end it
        with writing(path.with_name(f"{name}.png")) as part:
            part.write_bytes(as_png(atlas.image))
        write_text(path.with_name(f"{name}.mtl"), f"newmtl paint\nKd 1 1 1\nillum 0\nmap_Kd {name}.png\n")
        lines = [f"mtllib {name}.mtl", "usemtl paint", *(f"vt {u:.9g} {1 - v:.9g}" for u, v in atlas.uv.tolist())]  # from below
        corners = [f"{v}/{vt + 1}" for v, vt in zip(corners, atlas.faces.flatten().tolist(), strict=True)]
    else:
        rows = torch.cat([rows, whole.colours], 1)
    lines += ["v " + " ".join(f"{x:.9g}" for x in row) for row in rows.tolist()]
    lines += [f"f {a} {b} {c}" for a, b, c in zip(corners[::3], corners[1::3], corners[2::3], strict=True)]
    write_text(path, "\n".join([*lines, ""]))
    return said


@checked
def save_stl(mesh: Mesh, path: Path | str, millimetres: Positive = 50.0) -> str:
    """A binary STL for a printer, z up, one world unit as ``millimetres`` (STL itself has no unit; slicers take it for mm), and
    returns its size in words. Objects in the ball of radius 0.8 come out 80 mm large at most. ValueError for a mesh with holes.
    """
    whole = sound(mesh)
    if not watertight(whole):
        raise ValueError(f"a printer needs a mesh without holes, each edge shared by two triangles, got one of "
                         f"{len(whole.faces)} triangles where that is not so: save it as .glb or .obj and mend it there")
    corners = (whole.vertices * millimetres)[whole.faces]
    a, b, c = corners.unbind(1)
    rows = np.zeros(len(corners), [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("spare", "<u2")])
    rows["normal"], rows["corners"] = F.normalize(torch.linalg.cross(b - a, c - a), dim=-1), corners
    with writing(path) as part:
        part.write_bytes(f"dreamlab {__version__}, mm".encode().ljust(80) + struct.pack("<I", len(rows)) + rows.tobytes())
    size = whole.vertices[whole.faces].flatten(0, 1)
    size = (size.amax(0) - size.amin(0)) * millimetres
    return f"{len(rows)} triangles, {' x '.join(f'{x:.0f}' for x in size.tolist())} mm"


@checked
def save_asset_viewer(path: Path | str, mesh: Mesh | None = None, gaussians: Gaussians | None = None,
                      paint: Paint | None = None, title: str = "") -> None:
    """One ``.html`` page to turn a mesh or splats, or either of both, drawn with WebGL 2, without a network. It holds the bytes
    of :func:`save_glb` and ``save_ply``, a third longer (base64). ValueError without anything to show."""
    if mesh is None and gaussians is None:
        raise ValueError("a page needs something to turn, got no mesh and no gaussians: give one or both")
    held = {"glb": b"" if mesh is None else glb(mesh, paint, 512)[0], "ply": b"" if gaussians is None else as_ply(gaussians)}
    page = Template(Path(__file__).with_name("asset_viewer.html").read_text(encoding="utf-8")).substitute(
        title=escape(title), **{name: base64.b64encode(data).decode() for name, data in held.items()})
    write_text(path, page)
