"""Cameras that look at the origin from an orbit, in the conventions of :mod:`dreamlab.types`."""
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

VIEW_NAMES = ("front", "side", "back")


@dataclass(frozen=True)
class Cameras:
    """A batch of pinhole cameras on spheres around the origin. Every field has shape (B,).

    ``azimuth_deg`` any, ``elevation_deg`` in (-90, 90), ``radius`` > 0 in world units, ``fov_deg`` in (0, 180), both ways.
    """

    azimuth_deg: Float[Tensor, "b"]
    elevation_deg: Float[Tensor, "b"]
    radius: Float[Tensor, "b"]
    fov_deg: Float[Tensor, "b"]

    def __post_init__(self):
        for name, low, high in (("elevation_deg", -90, 90), ("radius", 0, float("inf")), ("fov_deg", 0, 180)):
            value = getattr(self, name)
            bad = value[(value <= low) | (value >= high)]
            if len(bad):
                raise ValueError(f"{name} must lie strictly between {low} and {high}, got {bad[0]:g}")

    def __len__(self):
        return len(self.azimuth_deg)

    def __getitem__(self, index: slice) -> "Cameras":
        return Cameras(self.azimuth_deg[index], self.elevation_deg[index], self.radius[index], self.fov_deg[index])

    def to(self, device) -> "Cameras":
        return Cameras(*(f.to(device) for f in (self.azimuth_deg, self.elevation_deg, self.radius, self.fov_deg)))

    @property
    def positions(self) -> Float[Tensor, "b 3"]:
        """Camera centres: radius * (cos el cos az, cos el sin az, sin el)."""
        az, el = self.azimuth_deg.deg2rad(), self.elevation_deg.deg2rad()
        return self.radius[:, None] * torch.stack([el.cos() * az.cos(), el.cos() * az.sin(), el.sin()], -1)

    @property
    def viewmats(self) -> Float[Tensor, "b 4 4"]:
        """World-to-camera matrices, OpenCV axes: rows of the rotation are right, down and forward."""
        az, el = self.azimuth_deg.deg2rad(), self.elevation_deg.deg2rad()
        zero = torch.zeros_like(az)
        right = torch.stack([-az.sin(), az.cos(), zero], -1)
        forward = -self.positions / self.radius[:, None]
        down = torch.stack([el.sin() * az.cos(), el.sin() * az.sin(), -el.cos()], -1)
        rotation = torch.stack([right, down, forward], 1)
        matrix = torch.eye(4, dtype=az.dtype, device=az.device).repeat(len(self), 1, 1)
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

    def clip_matrix(self, near: float = 0.1, far: float = 10.0) -> Float[Tensor, "b 4 4"]:
        """World to OpenGL clip space (x right, y up, z in [-1, 1] away from the viewer), for mesh rasterisers."""
        f = 1 / (self.fov_deg.deg2rad() / 2).tan()
        P = torch.zeros(len(self), 4, 4, dtype=f.dtype, device=f.device)
        P[:, 0, 0], P[:, 1, 1] = f, -f
        P[:, 2, 2], P[:, 2, 3] = (far + near) / (far - near), -2 * far * near / (far - near)
        P[:, 3, 2] = 1
        return P @ self.viewmats

    def view_names(self) -> list[str]:
        """"front" within 45 degrees of azimuth 0, "back" within 45 of 180, else "side"."""
        away = (self.azimuth_deg + 180).remainder(360).sub(180).abs()
        return ["front" if a < 45 else "side" if a < 135 else "back" for a in away.tolist()]


def orbit(azimuth_deg, elevation_deg=15.0, radius=2.4, fov_deg=40.0) -> Cameras:
    """Cameras at the given azimuths (a number, list or tensor); the other arguments broadcast against it."""
    az, *rest = torch.broadcast_tensors(*(torch.as_tensor(v, dtype=torch.float32).reshape(-1)
                                          for v in (azimuth_deg, elevation_deg, radius, fov_deg)))
    return Cameras(az, *rest)


def ring(n: int, elevation_deg: float = 15.0, radius: float = 2.4, fov_deg: float = 40.0) -> Cameras:
    """n cameras evenly around the object, the first at the front."""
    return orbit(torch.arange(n) * (360 / n), elevation_deg, radius, fov_deg)


@dataclass(frozen=True)
class Orbit:
    """Random training cameras: azimuths stratified over the circle, elevation and radius uniform.

    The defaults are the toybox's own camera ranges, so the prior has seen such views.
    """

    elevation_deg: tuple[float, float] = (-5.0, 35.0)
    radius: tuple[float, float] = (2.3, 2.5)
    fov_deg: float = 40.0

    def sample(self, n: int, generator: torch.Generator) -> Cameras:
        """n cameras: one azimuth in each of n equal sectors, the sectors turned by a common random angle."""
        start, jitter, el, r = torch.rand(1 + 3 * n, generator=generator).split([1, n, n, n])
        azimuth = (torch.arange(n) + jitter + start * n) * (360 / n)
        (e0, e1), (r0, r1) = self.elevation_deg, self.radius
        return orbit(azimuth.remainder(360), e0 + (e1 - e0) * el, r0 + (r1 - r0) * r, self.fov_deg)
