"""The bundled reconstruction network beside the visual hull: ``python -m benchmarks.reconstruction`` writes
``benchmarks/results/reconstruction.json``.

Toys as they are, in their held-out colours; duck and robot were never shown to the network. From true views: 14, 8, 4 in
the four directions, 8 of which one is of another object, and 8 whose cameras are a little off. Each as a surface at 48³:
intersection over union of silhouettes from 12 azimuths at elevation 15, and the symmetric Chamfer distance of 4,000 points to
2,000 of the truth; the truth's own surface at 48³ stands beside them. "network" and "hull, views that agree" leave out what
``costvolume.agreeing`` does; "network, all views" and "hull" do not. ``fronts``: how many of four views, in the colours that
are blended from 8, show one.
"""
import argparse
import time
from datetime import date
from pathlib import Path

import torch

from dreamlab.cameras import Cameras, orbit, ring
from dreamlab.costvolume import Reconstruction, agreeing, blend, hull
from dreamlab.files import write_json
from dreamlab.mesh import Mesh, lattice, marching_tetrahedra, sample, solid, vertex_normals
from dreamlab.metrics.align import iou
from dreamlab.metrics.truth import chamfer
from dreamlab.noise import stream
from dreamlab.render.mesh import rasterize
from dreamlab.scenes.tets import clean
from dreamlab.scenes.textured import draw
from dreamlab.toybox.judge import Judge
from dreamlab.toybox.objects import COLOURS, HELD_OUT, Toy
from dreamlab.toybox.render import render
from dreamlab.toybox.training.reconstruction import RADIUS, UNSEEN, spoilt

CORNERS = 48


def around(n: int, seed: str) -> Cameras:
    """n cameras, their azimuths spread evenly and elevations from -20 to 40."""
    g = stream(0, seed)
    return orbit((torch.arange(n) + torch.rand(n, generator=g)) * (360 / n), 60 * torch.rand(n, generator=g) - 20, RADIUS)


def cases(kind: str, colour: str) -> dict[str, tuple]:
    """Views to reconstruct from: pictures, masks, and the cameras that they are said to be of."""
    def seen(cameras: Cameras, of: Cameras | None = None, body: str = kind):
        shown = render(Toy(body), colour, of or cameras, 64)
        return shown.rgb, shown.alpha, cameras

    eight = around(8, f"8 {kind}")
    found = {"14": seen(around(14, f"14 {kind}")), "8": seen(eight), "4 directions": seen(orbit(ring(4).azimuth_deg, 0.0))}
    other = seen(eight, body="bear" if kind == "house" else "house")
    wrong = tuple(torch.cat([b[:1], a[1:]]) for a, b in zip(found["8"][:2], other[:2], strict=True))
    return found | {"8, one wrong": (*wrong, eight), "8, cameras off": seen(eight, spoilt(eight, stream(0, f"off {kind}")))}


def measure(values: torch.Tensor, places: torch.Tensor, kind: str) -> tuple[Mesh | None, dict[str, float]]:
    """Of the surface where values, negative inside, are 0."""
    vertices, faces = clean(*marching_tetrahedra(values, places))
    if not len(faces):
        return None, {"iou": 0.0, "chamfer": 1.0}
    cameras = ring(12)
    mask = rasterize(vertices, faces, cameras, 64).face >= 0
    true = render(Toy(kind), "red", cameras, 64).alpha[..., 0] > 0.5
    mesh = Mesh(vertices, faces, vertices)
    points, _ = sample(mesh, 4000, stream(0, "points"))
    away = chamfer(points, Toy(kind).surface_points(2000, stream(0, "truth")))
    return mesh, {"iou": iou(mask, true).mean().item(), "chamfer": away}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", type=Path, help="a folder; default: the bundled one")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/reconstruction.json"))
    args = parser.parse_args()
    network = Reconstruction.load(args.network) if args.network else Reconstruction.load()
    places, rows, seconds, fronts = lattice(CORNERS, 0.9), [], [], {}
    flat = places.view(-1, 3)
    for kind, colour in sorted(HELD_OUT):
        true = torch.cat([Toy(kind).sdf(some) for some in flat.split(1 << 16)]).view(places.shape[:3])
        rows.append({"kind": kind, "input": "truth", "by": "truth", **measure(true, places, kind)[1]})
        for name, (images, masks, cameras) in cases(kind, colour).items():
            start = time.process_time()
            some = agreeing(masks, cameras)
            trusted = images[some], masks[some], cameras[some]
            values = solid(network.sdf(network([trusted])[0], flat).view(places.shape[:3]))
            seconds.append(time.process_time() - start)
            mesh, found = measure(values, places, kind)
            rows.append({"kind": kind, "input": name, "by": "network", "views": len(some), **found})
            values = solid(network.sdf(network([(images, masks, cameras)])[0], flat).view(places.shape[:3]))
            rows.append({"kind": kind, "input": name, "by": "network, all views", **measure(values, places, kind)[1]})
            for by, views in (("hull", (masks, cameras)), ("hull, views that agree", trusted[1:])):
                carved = -hull(*views, flat).view(places.shape[:3])
                rows.append({"kind": kind, "input": name, "by": by, **measure(carved, places, kind)[1]})
            if name == "8" and mesh:
                normals = vertex_normals(mesh.vertices, mesh.faces)
                colours, _ = blend(mesh, normals, images, cameras)
                read = draw(mesh.vertices, mesh.faces, Nearest(mesh.vertices, colours), ring(4), 64, torch.ones(3)).rgb
                logits = Judge.load()(read.movedim(-1, 1).contiguous())
                fronts[kind] = {"fronts": int((logits[2] > 0).sum()), "front_logits": [round(x, 2) for x in logits[2].tolist()],
                                "colour_right": list(COLOURS)[logits[1].log_softmax(-1).mean(0).argmax()] == colour}
    summary = {}
    for by in dict.fromkeys(row["by"] for row in rows):
        for name in dict.fromkeys(row["input"] for row in rows):
            for group, chosen in {"all": None, "never shown": UNSEEN}.items():
                some = [r for r in rows if (r["by"], r["input"]) == (by, name) and (not chosen or r["kind"] in chosen)]
                if some:
                    summary[f"{by}, {name}, {group}"] = {
                        key: round(sum(r[key] for r in some) / len(some), 4) for key in ("iou", "chamfer")}
    for name, value in summary.items():
        print(f"{name:40s} IoU {value['iou']:.3f}  Chamfer {value['chamfer']:.4f}")
    print("fronts:", {kind: value["fronts"] for kind, value in fronts.items()}, "most CPU seconds:", round(max(seconds), 2))
    write_json(args.out, {"date": str(date.today()), "torch": torch.__version__, "corners": CORNERS, "summary": summary,
                          "fronts": fronts, "cpu_seconds": round(max(seconds), 2), "rows": rows})


class Nearest:
    """The colour of the nearest of some points."""

    def __init__(self, points: torch.Tensor, colours: torch.Tensor):
        self.points, self.colours = points, colours

    def __call__(self, places: torch.Tensor) -> torch.Tensor:
        near = torch.cat([torch.cdist(some, self.points).argmin(1) for some in places.split(1024)])
        return self.colours[near]


if __name__ == "__main__":
    main()
