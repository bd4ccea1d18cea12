"""How much memory a run will need, known before it starts.

One step is rehearsed with a single view, the bytes of all its tensors are counted as they come and go, and the step is
put back. A run of B views needs about B times the most that lived at once, besides what the process holds already.
"""
import ctypes
import os
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from dreamlab.stage import Stage, advance, make_optimiser, restore, snapshot
from dreamlab.threads import threads

# Memory a CPU's process holds for a byte in use: blocks that were freed and not given back. Between 1.0 (Gaussians) and 1.8 (a
# radiance field) with glibc, over one view's count times the views; this is a middle, chosen on the cases of the tests.
SLACK = 1.4
SMALL = (8, 16, 32, 64)  # pixels: of pictures that are rehearsed before larger ones
CGROUP = Path("/sys/fs/cgroup")


class Live(TorchDispatchMode):
    """Inside, ``most`` is the largest number of bytes that the tensors made since it began held at once, on a CPU."""

    def __init__(self):
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.now = self.most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **kwargs or {})
        for x in tree_iter(out):
            if isinstance(x, Tensor) and (key := (storage := x.untyped_storage())._cdata) not in self.sizes:
                self.sizes[key] = storage.nbytes()
                self.now += self.sizes[key]
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self.forget, key)
        return out

    def forget(self, key: int) -> None:
        self.now -= self.sizes.pop(key)


def held() -> int:
    """Bytes this process holds now; on macOS the most it has held; elsewhere half a gigabyte, about what torch takes."""
    if sys.platform == "linux":
        if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc's: what loading a prior has freed counts no more
            trim(0)
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return 500_000_000


def free(device: torch.device) -> int:
    """Bytes that could still be had there; where no system says, as many as one can count."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    found = []
    if sys.platform == "linux":
        with open("/proc/meminfo") as file:
            found = [int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable")]
        for limit, used in (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):
            try:  # of a container, where it has one
                found.append(max(int((CGROUP / limit).read_text()) - int((CGROUP / used).read_text()), 0))
            except (OSError, ValueError):
                pass
    return min(found, default=sys.maxsize)


def added(stage: Stage) -> int:
    """Bytes that one step of a stage adds at its peak, on a CPU or a GPU, without using up a random number; the stage is left
    as it was."""
    device = next(iter(stage.scene.parameters().values())).device
    optimiser = make_optimiser(stage)
    before = snapshot(stage, optimiser)
    try:
        if device.type == "cuda":
            now = torch.cuda.memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)
            advance(stage, optimiser, 0)
            return torch.cuda.max_memory_allocated(device) - now
        with threads(1), Live() as live:  # which sees this thread only
            advance(stage, optimiser, 0)
        return round(SLACK * live.most)
    finally:
        restore(stage, before)
        for leaf in stage.scene.parameters().values():
            leaf.grad = None


def estimate(stage: Stage, grown: bool = False) -> int:
    """Bytes at the peak of a run of ``stage``: of this process on a CPU, on a GPU of what torch holds there.

    = what is held now + two copies of the state (one to go back to, one to save) + B times what one view's step adds. The
    stage is left as it was, and no random number of the run is used up. ``grown``: for the most that its growth may make of the
    scene. Small pictures and scenes of few parts are rehearsed first; where they show that more cannot fit, nothing larger is
    allocated, and the bytes are an extrapolation.
    """
    scene = stage.scene
    device = next(iter(scene.parameters().values())).device
    most = max(stage.growth.most, len(scene)) if grown else len(scene)
    state = sum(x.nbytes for x in snapshot(stage, make_optimiser(stage)).values()) * most / len(scene)
    now = torch.cuda.memory_allocated(device) if device.type == "cuda" else held()
    joined = max(stage.prior.joined, getattr(stage.cameras, "joined", 1))
    least = max(scene.together, joined)
    times = stage.views / least
    room = (free(device) - 2 * state) / times

    def step(n: int, side: int | None) -> int:
        some = scene if n == len(scene) else scene.of(n)
        return added(replace(stage, scene=some, views=max(some.together, joined), resolution=side, growth=None))

    def pictures(n: int) -> float | int:
        sides = [*(s for s in SMALL if s < stage.resolution), stage.resolution] if stage.resolution else [None]
        return climb(partial(step, n), sides, room, power=2)

    few = [most // 64, most // 8] if most // 64 >= scene.few else []
    return round(now + 2 * state + times * climb(pictures, [*few, most], room))


def climb(measure: Callable, sizes: list[int | None], room: float | int, power: int = 1) -> float | int:
    """What the last of some rising sizes measures; from where it cannot fit, on the line through the two before."""
    found = []
    for size in sizes:
        if len(found) > 1:
            (a, low), (b, high) = found[-2:]
            slope = max(high - low, 0) / (b**power - a**power)
            if high + slope * (size**power - b**power) > room:
                return high + slope * (sizes[-1]**power - b**power)
        found.append((size, measure(size)))
    return found[-1][1]


def refuse(stage: Stage, needed: int, now: int) -> None:
    """ValueError where a run needs more than this machine has free."""
    device = next(iter(stage.scene.parameters().values())).device
    if needed - now > (room := free(device)):
        raise ValueError(f"this run needs about {needed / 1e9:.2g} GB of memory, and {(now + room) / 1e9:.2g} GB are free on "
                         f"{device.type}: take fewer views ({stage.views}) or pixels ({stage.resolution}), or a smaller scene")


def announce(stage: Stage, after: int = 0, say: Callable[[str], None] = print) -> None:
    """Say the estimate, and where Gaussians grow also the one for the most they may become. ``after``: bytes that whatever
    follows the run adds to what the process holds now, on a CPU; the larger of the two counts. ValueError, before any step,
    where the run cannot fit."""
    on_gpu = next(iter(stage.scene.parameters().values())).is_cuda
    now = 0 if on_gpu else held()
    needed = max(estimate(stage), 0 if on_gpu else now + after)
    refuse(stage, needed, now)
    line = f"This run needs about {needed / 1e9:.2g} GB of {'GPU ' * on_gpu}memory"
    if stage.growth and (most := stage.growth.most) > (n := len(stage.scene)):
        line += f", and up to {max(estimate(stage, grown=True), needed) / 1e9:.2g} GB if its {n} Gaussians become {most}"
    say(f"{line}.")


def refused(error: BaseException) -> str:
    """The one line of an allocator that has no room, on a GPU or a CPU; empty for any other error."""
    line = (str(error).splitlines() or [""])[0]
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return line
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error) or "not enough memory" in str(error):
        return f"there is no memory left ({line or 'for a list'})."
    return ""
