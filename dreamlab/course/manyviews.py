"""Notebook 14: stored readings of multi-view priors, the sweep that compares one with the 2D prior, the exercises' checks."""
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from dreamlab.cameras import orbit
from dreamlab.course import benchmark as benchmark  # for the notebook
from dreamlab.course import judge, rows, sheet
from dreamlab.noise import seeded
from dreamlab.priors.multiview import Joined, camera_numbers
from dreamlab.priors.zero123 import relative_pose

ARMS = ("2D prior", "multi-view prior")  # of sweeps/multiview.toml
ABLATIONS = ("attention off", "relative cameras")  # of sweeps/multiview_ablations.toml, on the same prompts and seeds
Pair = dict[str, dict]  # arm -> row, of one prompt and seed


def pairs() -> list[Pair]:
    """The runs of one prompt and seed, one of each arm and ablation; those that failed or lack the other arm are left out."""
    found: dict[tuple, Pair] = {}
    for row in rows("multiview") + rows("multiview_ablations"):
        if not row.get("error"):
            found.setdefault((row["prompt"], row["seed"]), {})[row["method"]] = row
    return [pair for pair in found.values() if set(ARMS) <= set(pair)]


def kind_of(pair: Pair) -> str:
    return pair[ARMS[0]]["prompt"].split()[-1]


def pictures(seed: int = 0) -> tuple[list[str], Float[Tensor, "arms prompts views side side 3"]]:
    """The prompts of one seed, and of each arm and ablation their front, left side and back, in [0, 1]."""
    found = []
    for name, arms in (("multiview", ARMS), ("multiview_ablations", ABLATIONS)):
        order = list(dict.fromkeys((row["prompt"], row["seed"]) for row in rows(name)))
        methods = list(dict.fromkeys(row["method"] for row in rows(name)))
        some = [i for i, (_, s) in enumerate(order) if s == seed]
        found.append(sheet(name)[[methods.index(arm) for arm in arms]][:, some])
    return [order[i][0] for i in some], torch.cat(found)


def check_numbers(answer: Callable) -> str:
    """Exercise 1: ``numbers(position)``, MVDream's 16 numbers (16,) of a camera there (3,) that looks at the origin."""
    cameras = orbit([20.0, 110.0, 215.0, 300.0], [15.0, -10.0, 40.0, 5.0], [2.4, 1.7, 3.0, 0.6])
    right, found = camera_numbers(cameras), [answer(position.clone()) for position in cameras.positions]
    if all(isinstance(x, Tensor) for x in found) and len({x.shape for x in found}) == 1:
        found = torch.stack(found)
        if found.shape == (4, 4, 4):
            return "Not yet: this is the matrix: lay its rows one after the other, .flatten()."
    else:
        found = next((x for x in found if x is not None), None)
    world = right.view(-1, 4, 4)

    def with_columns(*signs: int, scale: Tensor | float = 1.0) -> Tensor:
        """Right, up, back and position, each times a number."""
        changed = world.clone()
        changed[:, :3] *= torch.tensor(signs)
        changed[:, :3, 3] *= scale
        return changed.flatten(1)

    turned = world.clone()
    turned[:, :3, :3] = world[:, :3, :3].transpose(1, 2)
    leaning = world.clone()
    leaning[:, :3, 1] = torch.tensor([0.0, 0, 1])
    inverse = torch.linalg.inv(world)
    radius = cameras.radius[:, None]
    return judge(found, right, {
        "the position is not divided by its length.": with_columns(1, 1, 1, 1, scale=radius),
        "these are OpenCV's axes, right, down and forward: MVDream has OpenGL's, right, up and backward.":
            with_columns(1, -1, -1, 1),
        "these are OpenCV's axes, right, down and forward, and the position is not divided by its length.":
            with_columns(1, -1, -1, 1, scale=radius),
        "right is left, and up is down: the order in a cross product is its sign. Right is z x back, up is back x right.":
            with_columns(-1, -1, 1, 1),
        "right is left: the order in a cross product is its sign. Right is z x back.": with_columns(-1, 1, 1, 1),
        "up is down: the order in a cross product is its sign. Up is back x right.": with_columns(1, -1, 1, 1),
        "this is forward: the third axis points backward, from the origin to the camera.": with_columns(-1, 1, -1, 1),
        "the third axis points forward: OpenGL's points backward, from the origin to the camera.": with_columns(1, 1, -1, 1),
        "up is the world's z: the camera's own is at a right angle to the way it looks, back x right.": leaning.flatten(1),
        "this is world-to-camera: the camera's axes are columns here.": inverse.flatten(1),
        "the axes are rows here: stack them as columns, torch.stack(..., 1).": turned.flatten(1),
        "this is column by column: MVDream reads the matrix row by row.": world.transpose(1, 2).flatten(1),
    }, "back = position / its length; right = z x back, 1 long; up = back x right; these three and back again are columns.")


class Cut(ValueError):
    """An answer's rows have another number of channels."""


def check_together(answer: Callable) -> str:
    """Exercise 2: ``together(attend, tokens, views)``: tokens (b v, l, c), a set's views side by side; attend lets each row of
    (B, L, c) attend to itself; the result (b v, l, c) of attention in which a set's tokens are one row's."""
    from diffusers.models.attention_processor import Attention, AttnProcessor2_0

    sets, views, length, channels = 2, 3, 5, 8  # no two alike
    with torch.random.fork_rng():
        torch.manual_seed(142)
        attention = Attention(channels, heads=2, dim_head=4).requires_grad_(False)
    plain, library = AttnProcessor2_0(), Joined()
    tokens = torch.randn(sets * views, length, channels, generator=seeded(142))

    def attend(x: Tensor) -> Tensor:
        if not isinstance(x, Tensor) or x.ndim != 3 or x.shape[-1] != channels:
            raise Cut
        return plain(attention, x)

    b, lines = sets, tokens.reshape(sets, views, length, channels)
    strided = tokens.reshape(views, b, length, channels).transpose(0, 1).reshape(b, -1, channels)  # as if (v b)
    apart = attend(strided).reshape(b, views, length, channels)
    joined = attend(lines.flatten(1, 2))
    try:
        found = answer(attend, tokens.clone(), views)
    except Cut:
        return "Not yet: attend takes rows of tokens, (B, L, c), and c stays: the tokens of the views become one row."
    right = library(attention, tokens, views=views)
    if isinstance(found, Tensor) and found.shape == (sets, views * length, channels):
        return "Not yet: (b, v l, c) is the shape inside; go back to (b v, l, c), as it came in."
    return judge(found, right, {
        "each view is alone here: a set's tokens must be one row before attend.": attend(tokens),
        "all sets are one row: tokens of another object must not be seen.":
            attend(tokens.reshape(1, -1, channels)).view_as(tokens),
        "the views of a set are side by side: the first axis is (b v), not (v b).": apart.transpose(0, 1).reshape(tokens.shape),
        "the views of a set are side by side: the first axis is (b v), not (v b), there and back.": apart.reshape(tokens.shape),
        "the way back mixes views and tokens: (v l) was made of v, then l.":
            joined.reshape(b, length, views, channels).transpose(1, 2).reshape(tokens.shape),
        "attend is not called: this gives the tokens back.": tokens,
        "this adds the tokens: the layer around it does that already.": right + tokens,
    }, "tokens.reshape(b, views * l, c), attend, and .reshape back; b is the number of rows over views.")


def check_pose(answer: Callable) -> str:
    """Exercise 3: ``pose(cameras, seen)``, Zero123's four numbers (b, 4) of b cameras beside the one of the picture."""
    cameras = orbit([10.0, 100.0, 200.0, 350.0], [20.0, -10.0, 35.0, 5.0], [2.4, 1.8, 3.0, 2.1])
    seen = orbit(40.0, 15.0, 2.2)
    right = relative_pose(cameras, seen)
    up, turn = (getattr(cameras, name) - getattr(seen, name) for name in ("elevation_deg", "azimuth_deg"))
    far = cameras.radius - seen.radius

    def numbers(up: Tensor, sine: Tensor, cosine: Tensor, far: Tensor) -> Tensor:
        return torch.stack([up, sine, cosine, far], -1)

    u, a = up.deg2rad(), turn.deg2rad()
    own = cameras.azimuth_deg.deg2rad()
    return judge(answer(cameras, seen), right, {
        "wrong sign of the first: Zero123 counts the angle down from the vertical, so going up is negative.":
            numbers(u, a.sin(), a.cos(), far),
        "degrees: the first number is in radians.": numbers(-up, a.sin(), a.cos(), far),
        "degrees, and the wrong sign: the first number is in radians, and going up is negative.":
            numbers(up, a.sin(), a.cos(), far),
        "torch.sin and cos want radians.": numbers(-u, turn.sin(), turn.cos(), far),
        "sine and cosine are swapped: the sine comes first.": numbers(-u, a.cos(), a.sin(), far),
        "the azimuths are taken off the wrong way round: the camera's less the picture's.": numbers(-u, -a.sin(), a.cos(), far),
        "all of this is the wrong way round: the camera's less the picture's, and only the elevation turns its sign.":
            numbers(u, -a.sin(), a.cos(), -far),
        "the distances are taken off the wrong way round: the camera's less the picture's.":
            numbers(-u, a.sin(), a.cos(), -far),
        "this is the camera's own azimuth: how far round it stands from the *picture's* is wanted.":
            numbers(-u, own.sin(), own.cos(), far),
        "this is the camera's own distance: how much farther it stands than the picture's is wanted.":
            numbers(-u, a.sin(), a.cos(), cameras.radius),
        "this is the camera's own place: everything is told beside the picture's.":
            numbers(-cameras.elevation_deg.deg2rad(), own.sin(), own.cos(), cameras.radius),
        "the distance is not one of the angles, and stands last.": numbers(far, -u, a.sin(), a.cos()),
    }, "-(elevation's difference), sine and cosine of the azimuths' difference, all in radians, and the distances' difference.")

