"""The memory that is printed before a run is what the run takes, within 25 %, and finding it out changes nothing."""
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dreamlab.cli import main
from dreamlab.memory import Live, announce, climb, estimate, free, held
from dreamlab.methods import METHODS
from dreamlab.priors.diffusion import DiffusionPrior
from dreamlab.scenes.growth import Growth
from dreamlab.stage import make_optimiser, run, snapshot

PEAK = """
import sys
def peak():
    if sys.platform == "linux":  # of this program alone; ru_maxrss counts the one that started it too
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024
    from resource import RUSAGE_SELF, getrusage
    return getrusage(RUSAGE_SELF).ru_maxrss
"""
RUN = PEAK + """
from dreamlab.memory import estimate
from dreamlab.methods import METHODS
from dreamlab.stage import run
plan = eval(sys.argv[1])
said = estimate(plan)
for _ in run(plan, sys.argv[2], every=2, progress=False):
    pass
print(said, peak())
"""
ENV = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(torch.get_num_threads()), "CUDA_VISIBLE_DEVICES": ""}
TOY = "METHODS['{}'].toy['shape'].set({{'steps': 3{}}}).build('a red mug')"


@pytest.fixture(scope="module")
def prior():
    return DiffusionPrior.load()


def toy(prior, method="dreammapping", **changes):
    small = {"steps": 2, "resolution": 32} | ({"start.samples": 8} if method == "field" else {"start.points": 80})
    small |= {"start.points" if k == "points" else k: v for k, v in changes.items()}
    return METHODS[method].toy["shape"].set(small).build("a red mug", prior)


@pytest.mark.skipif(sys.platform == "win32", reason="no peak of a process to compare with")
@pytest.mark.parametrize("plan", [
    TOY.format("dreammapping", ""),
    pytest.param(TOY.format("dreammapping", ", 'start.points': 6000, 'resolution': 128"), marks=pytest.mark.slow),
    pytest.param(TOY.format("field", ""), marks=pytest.mark.slow),
    pytest.param(TOY.format("dreammapping", ", 'rule': 'VSD'"), marks=pytest.mark.slow),
    pytest.param("METHODS['text2image'].toy['pictures'].set(steps=3).build('a red mug')", marks=pytest.mark.slow),
], ids=["demo", "large", "nerf", "VSD", "picture"])
def test_the_estimate_is_what_a_run_takes(plan, tmp_path):
    out = subprocess.run([sys.executable, "-c", RUN, plan, str(tmp_path / "c")], check=True, capture_output=True, text=True,
                         env=ENV, cwd=Path(__file__).parents[1]).stdout
    said, taken = map(int, out.split())
    print(f"{said / 1e6:.0f} MB said, {taken / 1e6:.0f} MB taken")
    assert abs(said / taken - 1) < 0.25


WHOLE = PEAK + """
from dreamlab import cli
assert cli.main(sys.argv[1:]) == 0
print(peak())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no peak of a process to compare with")
@pytest.mark.parametrize("scene", ["gaussians", "picture"])
def test_the_command_takes_what_it_says_with_its_drawing_and_measuring(scene, tmp_path):
    command = ["dream", "a red mug", "--scene", scene, "--steps", "3", "--out", str(tmp_path)]
    out = subprocess.run([sys.executable, "-c", WHOLE, *command], check=True, capture_output=True, text=True, env=ENV,
                         cwd=Path(__file__).parents[1]).stdout
    said, taken = float(re.search(r"about (\S+) GB", out)[1]) * 1e9, int(out.split()[-1])
    print(f"{said / 1e6:.0f} MB said, {taken / 1e6:.0f} MB taken")
    assert abs(said / taken - 1) < 0.25


def test_live_counts_what_is_alive_at_once_and_each_storage_once():
    with Live() as live:
        a = torch.ones(1000)  # 4000 bytes
        b = a + 1  # 8000
        view = b.view(10, 100)
        del b, a  # 4000: the view keeps b
        c = view * 2  # 8000
        del view
        d = torch.cat([c, c])  # 12000
        del c, d
        torch.zeros(2000)
    assert live.most == 12000 and live.now == 0


@pytest.mark.parametrize("changes", [{}, {"rule": "VSD"}, {"rule": "LODS"}, {"method": "field"},
                                     {"growth": Growth(since=0, every=1, gradient=1e-9, split=1e-3, reset=2, wide=9.0)}])
def test_it_leaves_the_stage_and_its_random_numbers_as_they_were(changes, prior):
    made, plain = toy(prior, **changes), toy(prior, **changes)
    before, leaves, state = snapshot(made, make_optimiser(made)), made.scene.parameters(), torch.get_rng_state()
    assert estimate(made) > 0
    after = snapshot(made, make_optimiser(made))
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    assert all(leaf is leaves[name] and leaf.grad is None for name, leaf in made.scene.parameters().items())
    assert torch.equal(torch.get_rng_state(), state)
    for one, other in zip(run(made, progress=False), run(plain, progress=False), strict=True):
        assert one.grad_norm == other.grad_norm
    other = plain.scene.parameters()
    assert all(torch.equal(leaf, other[name]) for name, leaf in made.scene.parameters().items())


def test_it_grows_with_views_and_with_gaussians(prior):
    """The part that a run adds: B views need B times what one needs, besides the state."""
    def added(**changes):
        made = toy(prior, resolution=64, **changes)
        estimate(made)
        before = held()
        return estimate(made) - before

    assert 1.7 < added(views=4) / added(views=2) < 2.3
    assert added(points=3000) > 1.3 * added()


def test_more_gaussians_are_rehearsed_and_not_extrapolated(prior):
    few, many = toy(prior, points=500, resolution=64), toy(prior, points=4000, resolution=64)
    estimate(many)
    before = held()
    few.growth = Growth(most=4000)
    said, true = estimate(few, grown=True) - before, estimate(many) - before
    assert abs(said / true - 1) < 0.15 and len(few.scene) == 500
    assert said < 4 * (estimate(few) - before)  # eight times the Gaussians: the prior's part does not grow


def test_it_is_printed_before_the_first_step(tmp_path, capsys, monkeypatch, prior):
    monkeypatch.setattr("dreamlab.stage.advance", lambda *_: (_ for _ in ()).throw(FloatingPointError("no step")))
    assert main(["dream", "a red mug", "--scene", "picture", "--rule", "SDS", "--steps", "1", "--out", str(tmp_path)]) == 2
    first, = (line for line in capsys.readouterr().out.splitlines() if "memory" in line)
    assert first.startswith("This run needs about ") and first.endswith(" GB of memory.")
    announce(toy(prior, growth=Growth(most=8000)))
    assert "GB if its 80 Gaussians become 8000." in capsys.readouterr().out


@pytest.mark.parametrize("changes", [{"views": 4096, "resolution": 8192}, {"resolution": 8192},
                                     {"method": "field", "views": 2000, "resolution": 512}])
def test_a_run_that_cannot_fit_is_refused_before_it_allocates(changes, prior, monkeypatch):
    """Small pictures are rehearsed first; large ones are never drawn."""
    made = toy(prior, **changes)
    monkeypatch.setattr("dreamlab.memory.free", lambda device: 2 * 10**9)
    drawn = []
    render = type(made.scene).render
    monkeypatch.setattr(type(made.scene), "render", lambda *args: drawn.append(args[2]) or render(*args))
    with pytest.raises(ValueError, match="needs about .* GB of memory, and .* GB are free on cpu: take fewer views"):
        announce(made)
    assert max(drawn) <= 64


@pytest.mark.parametrize("method, changes", [
    ("ball", {"start.points": 200_000}), ("text2image-pixels", {"start.pictures": 256})])
def test_a_scene_of_too_many_parts_is_refused_before_it_is_drawn(method, changes, prior, monkeypatch):
    """A few of them are rehearsed first, and a run that fits is said as it is measured."""
    made = next(iter(METHODS[method].toy.values())).set(changes).build("a red mug", prior)
    made.resolution = made.resolution and 16
    monkeypatch.setattr("dreamlab.memory.free", lambda device: 2 * 10**8)
    drawn = []
    render = type(made.scene).render
    monkeypatch.setattr(type(made.scene), "render", lambda scene, *args: drawn.append(len(scene)) or render(scene, *args))
    with pytest.raises(ValueError, match="needs about .* GB of memory"):
        announce(made)
    assert max(drawn) <= len(made.scene) // 8


def test_what_cannot_fit_is_not_measured():
    """Where the line through what was measured says so; it is exact for what grows as a line or as an area."""
    seen = []
    measure = lambda n: seen.append(n) or 100 * n + 7  # noqa: E731
    assert climb(measure, [1, 2, 30], 10**9) == 3007 and seen == [1, 2, 30]
    assert climb(measure, [1, 2, 30, 400], 1000) == 40007 and seen[3:] == [1, 2]
    assert climb(lambda n: n * n, [2, 4, 8, 100], 70, power=2) == 10_000 and climb(measure, [5], 1) == 507


def test_what_is_free_is_less_than_the_machine_has():
    room = free(torch.device("cpu"))
    assert room > 10**8
    if sys.platform == "linux":
        assert room < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_it_is_what_torch_allocates():
    made = METHODS["text2image"].toy["pictures"].set(steps=2).build("a red mug", DiffusionPrior.load(device="cuda"))
    said = estimate(made)
    torch.cuda.reset_peak_memory_stats()
    list(run(made, progress=False))
    assert abs(said / torch.cuda.max_memory_allocated() - 1) < 0.25
