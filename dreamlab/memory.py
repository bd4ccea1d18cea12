"""How much memory a run will need, known before it starts.

One step is rehearsed with a single view, the bytes of all its tensors are counted as they come and go, and the step is
put back. A run of B views needs about B times the most that lived at once, besides what the process holds already.
"""
import ctypes
import math
import os
import sys
import weakref
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from dreamlab.scenes.gaussians import Gaussians
from dreamlab.scenes.nerf import NeRF
from dreamlab.scenes.picture import Picture
from dreamlab.stage import Stage, advance, make_optimiser, restore, snapshot

# Memory a CPU's process holds for a byte in use: blocks that were freed and not given back. Between 1.0 (Gaussians) and 1.8 (a
# radiance field) with glibc, over one view's count times the views; this is a middle, chosen on the cases of the tests.
SLACK = 1.4


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


def estimate(stage: Stage, gaussians: int | None = None) -> int:
    """Bytes at the peak of a run of ``stage``: of this process on a CPU, on a GPU of what torch holds there.

    = what is held now + two copies of the state (one to go back to, one to save) + B times what one view's step adds. The
    stage is left as it was, and no random number of the run is used up. ``gaussians``: for a scene of so many, which are
    those of ``stage`` again and again, together as large as before.
    """
    if gaussians:
        smaller = math.log(gaussians / len(stage.scene)) / 3
        again = {name: leaf[torch.arange(gaussians, device=leaf.device) % len(leaf)]
                 for name, leaf in stage.scene.parameters().items()}
        again["scales"] = again["scales"] - smaller
        stage = replace(stage, scene=Gaussians.from_raw(again), growth=None)
    device = next(iter(stage.scene.parameters().values())).device
    several = isinstance(stage.scene, Picture)  # pictures that learn together cannot be rehearsed alone
    one = stage if several else replace(stage, views=1, growth=None)
    optimiser = make_optimiser(one)
    before, now = snapshot(one, optimiser), held()
    try:
        if device.type == "cuda":
            now = torch.cuda.memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)
            advance(one, optimiser, 0)
            added = torch.cuda.max_memory_allocated(device) - now
        else:
            with Live() as live:
                advance(one, optimiser, 0)
            added = SLACK * live.most
    finally:
        restore(one, before)
        for leaf in stage.scene.parameters().values():
            leaf.grad = None
        if isinstance(stage.scene, NeRF):
            stage.scene.occupancy = None  # made by its first render
    added = added * (1 if several else stage.views) + 2 * sum(x.nbytes for x in before.values())
    return now + round(added)


def announce(stage: Stage, after: int = 0) -> None:
    """Print the estimate, and where Gaussians grow also the one for the most they may become. ``after``: bytes that whatever
    follows the run adds to what the process holds now, on a CPU; the larger of the two counts."""
    on_gpu = next(iter(stage.scene.parameters().values())).is_cuda
    least = 0 if on_gpu else held() + after
    line = f"This run needs about {max(estimate(stage), least) / 1e9:.2g} GB of {'GPU ' * on_gpu}memory"
    if stage.growth and (most := stage.growth.most) > (n := len(stage.scene)):
        line += f", and up to {max(estimate(stage, most), least) / 1e9:.2g} GB if its {n} Gaussians become {most}"
    print(f"{line}.", flush=True)
