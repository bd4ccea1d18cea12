"""Cameras that look at the origin from an orbit, in the conventions of :mod:`dreamlab.types`."""
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dreamlab.checks import Count, NotNegative, Positive, Range, check_fields, checked

VIEW_NAMES = ("front", "side", "back")
Elevation = Annotated[float, Range(-90, 90, "both")]
Azimuth = Annotated[float, Range(-720, 720)]
Fov = Annotated[float, Range(0, 180, "both")]
Numbers = float | int | Sequence[float | int] | Tensor


@dataclass(frozen=True)
class Cameras:
    """A batch of pinhole cameras on spheres around the origin. Fields have shape (B,), ``target`` (B, 3).

    ``azimuth_deg`` any, ``elevation_deg`` in (-90, 90), ``radius`` > 0 in world units, ``fov_deg`` in (0, 180), both ways.
    They look at ``target``, the origin unless given, and are turned clockwise about their axis by ``roll_deg``.
    """

    azimuth_deg: Float[Tensor, "b"]
    elevation_deg: Float[Tensor, "b"]
    radius: Float[Tensor, "b"]
    fov_deg: Float[Tensor, "b"]
    target: Float[Tensor, "b 3"] | None = None
    roll_deg: Float[Tensor, "b"] | None = None

    def __post_init__(self):
        check_fields(self)
        for name, shape in (("target", (len(self), 3)), ("roll_deg", (len(self),))):
            if getattr(self, name) is None:
                object.__setattr__(self, name, self.radius.new_zeros(shape))
        if len(set(sizes := [len(getattr(self, f.name)) for f in fields(self)])) > 1:
            raise ValueError(f"each field of Cameras has as many rows, got {sizes}: give as many of each")
        for name, low, high in (("elevation_deg", -90, 90), ("radius", 0, float("inf")), ("fov_deg", 0, 180)):
            value = getattr(self, name)
            bad = value[~((value > low) & (value < high))]  # NaN too
            if len(bad):
                raise ValueError(f"{name} must lie strictly between {low} and {high}, got {bad[0]:g}: change it")

    def __len__(self):
        return len(self.azimuth_deg)

    def __getitem__(self, index: slice | list[int] | Tensor) -> "Cameras":
        return Cameras(*(getattr(self, f.name)[index] for f in fields(self)))

    def to(self, device) -> "Cameras":
        return Cameras(*(getattr(self, f.name).to(device) for f in fields(self)))

    @property
    def positions(self) -> Float[Tensor, "b 3"]:
        """Camera centres: radius * (cos el cos az, cos el sin az, sin el)."""
        az, el = self.azimuth_deg.deg2rad(), self.elevation_deg.deg2rad()
        return self.radius[:, None] * torch.stack([el.cos() * az.cos(), el.cos() * az.sin(), el.sin()], -1)

    @property
    def viewmats(self) -> Float[Tensor, "b 4 4"]:
        """World-to-camera matrices, OpenCV axes: rows of the rotation are right, down and forward."""
        forward = F.normalize(self.target - self.positions, dim=-1)
        right = F.normalize(torch.linalg.cross(forward, forward.new_tensor([0, 0, 1]).expand_as(forward)), dim=-1)
        down = torch.linalg.cross(forward, right)
        roll = self.roll_deg.deg2rad()[:, None]
        right, down = roll.cos() * right + roll.sin() * down, roll.cos() * down - roll.sin() * right
        rotation = torch.stack([right, down, forward], 1)
        matrix = torch.eye(4).to(rotation).repeat(len(self), 1, 1)
        matrix[:, :3, :3] = rotation
        matrix[:, :3, 3] = -(rotation @ self.positions[..., None])[..., 0]
        return matrix

    def Ks(self, resolution: int) -> Float[Tensor, "b 3 3"]:
        """Pixel intrinsics of a square image: focal length (resolution / 2) / tan(fov / 2), centre resolution / 2."""
        focal = resolution / 2 / (self.fov_deg.deg2rad() / 2).tan()
        K = torch.eye(3, dtype=focal.dtype, device=focal.device).repeat(len(self), 1, 1)
        K[:, 0, 0] = K[:, 1, 1] = focal
        K[:, :2, 2] = resolution / 2
        return K

    def rays(self, resolution: int) -> tuple[Float[Tensor, "b 3"], Float[Tensor, "b h w 3"]]:
        """Origins, and unit directions through the pixel centres."""
        K = self.Ks(resolution)
        pixel = torch.arange(resolution, dtype=K.dtype, device=K.device) + 0.5
        v, u = torch.meshgrid(pixel, pixel, indexing="ij")
        xy = torch.stack([u, v], -1)
        xy = (xy - K[:, None, None, :2, 2]) / K[:, None, None, :1, 0]
        camera = torch.cat([xy, torch.ones_like(xy[..., :1])], -1)
        world = torch.einsum("bji,bhwj->bhwi", self.viewmats[:, :3, :3], camera)
        return self.positions, torch.nn.functional.normalize(world, dim=-1)

    def unproject(self, depth: Float[Tensor, "b h w 1"]) -> Float[Tensor, "b h w 3"]:
        """The points in the world that lie behind the pixel centres at this depth along z."""
        origins, directions = self.rays(depth.shape[1])
        along = (directions * self.viewmats[:, None, None, 2, :3]).sum(-1, keepdim=True)
        return origins[:, None, None] + depth / along * directions

    def clip_matrix(self, near: float = 0.1, far: float = 10.0) -> Float[Tensor, "b 4 4"]:
        """World to OpenGL clip space (x right, y up, z in [-1, 1] away from the viewer), for mesh rasterisers."""
        f = 1 / (self.fov_deg.deg2rad() / 2).tan()
        P = torch.zeros(len(self), 4, 4, dtype=f.dtype, device=f.device)
        P[:, 0, 0], P[:, 1, 1] = f, -f
        P[:, 2, 2], P[:, 2, 3] = (far + near) / (far - near), -2 * far * near / (far - near)
        P[:, 3, 2] = 1
        return P @ self.viewmats

    def view_angles(self) -> Float[Tensor, "b"]:
        """Degrees of azimuth away from the front, either way, in [0, 180]."""
        return (self.azimuth_deg + 180).remainder(360).sub(180).abs()

    def view_names(self) -> list[str]:
        """"front" within 45 degrees of azimuth 0, "back" within 45 of 180, else "side"."""
        return ["front" if a < 45 else "side" if a < 135 else "back" for a in self.view_angles().tolist()]


@checked
def orbit(azimuth_deg: Numbers, elevation_deg: Numbers = 15.0, radius: Numbers = 2.4, fov_deg: Numbers = 40.0) -> Cameras:
    """Cameras at the given azimuths (a number, list or tensor); the other arguments broadcast against it."""
    columns = [torch.as_tensor(v, dtype=torch.float32).reshape(-1) for v in (azimuth_deg, elevation_deg, radius, fov_deg)]
    if len(set(sizes := [len(column) for column in columns]) - {1}) > 1:
        raise ValueError(f"azimuths, elevations, radii and fields of view are as many or one, got {sizes}: give as many")
    return Cameras(*torch.broadcast_tensors(*columns))


@checked
def ring(n: Count, elevation_deg: float | int = 15.0, radius: float | int = 2.4, fov_deg: float | int = 40.0) -> Cameras:
    """n cameras evenly around the object, the first at the front."""
    return orbit(torch.arange(n) * (360 / n), elevation_deg, radius, fov_deg)


@dataclass(frozen=True)
class Orbit:
    """Random training cameras: azimuths stratified over their range, elevation, radius and field of view uniform.

    ``aim`` is the standard deviation, in world units, of the point they look at, and ``roll_deg`` that of their roll. The
    defaults are the toybox's own camera ranges, so the prior has seen such views.
    """

    elevation_deg: tuple[Elevation, Elevation] = (-5.0, 35.0)
    radius: tuple[Positive, Positive] = (2.3, 2.5)
    fov_deg: Fov | tuple[Fov, Fov] = 40.0
    azimuth_deg: tuple[Azimuth, Azimuth] = (0.0, 360.0)
    aim: NotNegative = 0.0
    roll_deg: NotNegative = 0.0

    def __post_init__(self):
        check_fields(self)
        for f in fields(self):
            if isinstance(pair := getattr(self, f.name), tuple) and pair[0] > pair[1]:
                raise ValueError(f"{type(self).__name__}.{f.name} is a range from low to high, got {pair}: swap them")

    def at(self, step: int, steps: int) -> "Orbit":
        """The ranges at this step of a run."""
        return self

    @checked
    def sample(self, n: Count, generator: torch.Generator) -> Cameras:
        """n cameras: one azimuth in each of n equal sectors, the sectors moved around by a common random amount."""
        start, jitter, el, r = torch.rand(1 + 3 * n, generator=generator).split([1, n, n, n])
        (a0, a1), (e0, e1), (r0, r1) = self.azimuth_deg, self.elevation_deg, self.radius
        azimuth = a0 + (torch.arange(n) + jitter + start * n).remainder(n) * ((a1 - a0) / n)
        fov = self.fov_deg
        if isinstance(fov, tuple):
            fov = fov[0] + (fov[1] - fov[0]) * torch.rand(n, generator=generator)
        cameras = orbit(azimuth.remainder(360), e0 + (e1 - e0) * el, r0 + (r1 - r0) * r, fov)
        if self.aim or self.roll_deg:
            target, roll = torch.randn(4 * n, generator=generator).split([3 * n, n])
            cameras = replace(cameras, target=self.aim * target.view(n, 3), roll_deg=self.roll_deg * roll)
        return cameras


@dataclass(frozen=True)
class LucidOrbit(Orbit):
    """LucidDreamer's cameras (arXiv 2311.11284, official code), which DreamMapping keeps: they come nearer in steps.

    Every ``every`` of the steps both ends of the radius shrink by ``nearer`` down to ``nearest``, the lower end of the field of
    view by ``narrower`` down to ``narrowest``, and the range of azimuths widens by ``wider`` up to the full circle (heads begin
    at (-80, 80) with wider = 1.5). Left out: the camera centre's own jitter, 0.3 degrees at this radius.
    """

    elevation_deg: tuple[Elevation, Elevation] = (-15.0, 45.0)
    radius: tuple[Positive, Positive] = (5.2, 5.5)
    fov_deg: tuple[Fov, Fov] = (18.3, 34.4)  # 0.32 and 0.60 radians
    aim: NotNegative = 0.05
    roll_deg: NotNegative = 0.6  # the up vector moves by 0.01
    every: Annotated[float, Range(0, 1, "low")] = 0.1  # of the steps
    nearer: Annotated[float, Range(0, 1, "low")] = 0.95
    nearest: tuple[Positive, Positive] = (3.5, 5.0)
    narrower: Annotated[float, Range(0, 1, "low")] = 0.75
    narrowest: Fov = 9.2  # 0.16 radians
    wider: Annotated[float, Range(1, 10)] = 1.0

    def __post_init__(self):
        super().__post_init__()
        if self.narrowest > self.fov_deg[1]:
            raise ValueError(f"narrowest must be at most {self.fov_deg[1]:g}, where fov_deg ends, got {self.narrowest:g}: "
                             "lower it")

    def at(self, step: int, steps: int) -> Orbit:
        k = int(step / max(steps, 1) / self.every + 1e-9)
        (r0, r1), (n0, n1), (f0, f1) = self.radius, self.nearest, self.fov_deg
        middle, half = sum(self.azimuth_deg) / 2, (self.azimuth_deg[1] - self.azimuth_deg[0]) / 2
        half = min(half * self.wider**k, 180.0)
        return Orbit(self.elevation_deg, (max(r0 * self.nearer**k, n0), max(r1 * self.nearer**k, n1)),
                     (max(f0 * self.narrower**k, self.narrowest), f1), (middle - half, middle + half), self.aim, self.roll_deg)


@dataclass(frozen=True)
class Rings(Orbit):
    """Cameras for a multi-view prior (MVDream, arXiv 2308.16512): each ``joined`` of them stand evenly around the object, at
    one elevation, distance and field of view, the first at any azimuth."""

    joined: Count = 4

    @checked
    def sample(self, n: Count, generator: torch.Generator) -> Cameras:
        """n cameras, a ring after the other. ValueError unless n is a multiple of ``joined``."""
        if n % self.joined:
            raise ValueError(f"Rings gives {self.joined} cameras at a time, got {n}: let views be a multiple of {self.joined}")
        firsts = super().sample(n // self.joined, generator)
        ring = Cameras(*(getattr(firsts, f.name).repeat_interleave(self.joined, 0) for f in fields(firsts)))
        around = torch.arange(self.joined).repeat(len(firsts)) * (360 / self.joined)
        return replace(ring, azimuth_deg=(ring.azimuth_deg + around).remainder(360))


ORBITS = {"Orbit": Orbit(), "LucidOrbit": LucidOrbit(), "Rings": Rings()}
