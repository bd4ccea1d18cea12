"""What splatting costs on this machine, how that grows, and how far it is from the brute-force definition."""
import math
import time

import torch

from benchmarks.brute_force import brute_force, pixel_centres
from dreamlab.cameras import orbit
from dreamlab.noise import seeded
from dreamlab.scenes.gaussians import Gaussians

COUNTS, RESOLUTIONS = (1000, 4000, 16000), (64, 128)


def milliseconds(scene: Gaussians, resolution: int, repeats: int = 7) -> float:
    """Median over ``repeats`` of one view forward and backward, after one warm-up."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        scene.render(orbit(30), resolution, torch.ones(3)).rgb.square().sum().backward()
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[repeats // 2] * 1e3


def brute_milliseconds(scene: Gaussians, resolution: int, block: int = 2048) -> float:
    """The same picture and gradient by definition, ``block`` pixels at a time: less memory, and faster so."""
    start = time.perf_counter()
    camera = orbit(30)
    for pixels in pixel_centres(resolution).split(block):
        rgb, alpha, _ = brute_force(scene.means, scene.quats, scene.scales, scene.opacities, scene.colors,
                                    camera.viewmats[0], camera.Ks(resolution)[0], resolution, pixels)
        (rgb + 1 - alpha).square().sum().backward()
    return (time.perf_counter() - start) * 1e3


def exponent(sizes: list[float], times: list[float]) -> float:
    """k of the least-squares fit time = c * size^k: the slope in the logarithms."""
    x, y = ([math.log(v) for v in values] for values in (sizes, times))
    mx, my = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / sum((a - mx) ** 2 for a in x)


def bench() -> dict[str, float]:
    """Balls of Gaussians that fill the same space: more of them are smaller ones, as after densification."""
    scenes = {n: Gaussians.ball(n, generator=seeded(0)) for n in COUNTS}
    ms = {(n, r): milliseconds(scenes[n], r) for n in COUNTS for r in RESOLUTIONS}
    out = {f"ms forward + backward, {n} Gaussians, {r} px": value for (n, r), value in ms.items()}
    for r in RESOLUTIONS:
        out[f"growth exponent in Gaussians, {r} px"] = exponent(COUNTS, [ms[n, r] for n in COUNTS])
    pixels = [r**2 for r in RESOLUTIONS]
    for n in COUNTS:
        out[f"growth exponent in pixels, {n} Gaussians"] = exponent(pixels, [ms[n, r] for r in RESOLUTIONS])
    with torch.no_grad():
        start = time.perf_counter()
        scenes[4000].render(orbit(30), 256, torch.ones(3))
        out["ms forward only, 4000 Gaussians, 256 px"] = (time.perf_counter() - start) * 1e3
    out["ms brute force, 4000 Gaussians, 128 px"] = brute_milliseconds(scenes[4000], 128)
    out["times faster than brute force (bar: 10)"] = out["ms brute force, 4000 Gaussians, 128 px"] / ms[4000, 128]
    return out


def main():
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name, value in bench().items():
        print(f"{name:48s} {value:10.2f}")


if __name__ == "__main__":
    main()
