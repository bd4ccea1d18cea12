"""The views of a step are shared out over threads, and nobody can tell by the result."""
import threading
import time

import pytest
import torch

from dreamlab.methods import METHODS
from dreamlab.pipeline import work
from dreamlab.rules.base import distill
from dreamlab.stage import advance, make_optimiser
from dreamlab.threads import PIECES, each, gradients, later, pieces, sharing, threads

CPU = torch.device("cpu")
SMALL = {"start.points": 60, "steps": 4, "views": 5, "resolution": 32}
FIELD = {"start.samples": 4, "start.levels": 1, "start.hidden": 4, "steps": 4, "views": 4, "resolution": 16}
RUNS = {"VDM": ("ball", SMALL), "VSD": ("ball", SMALL | {"rule": "VSD"}), "LODS": ("ball", SMALL | {"rule": "LODS"}),
        "grown and smooth": ("ball", SMALL | {"growth": "Growth", "growth.since": 0, "growth.every": 2, "growth.gradient": 1e-9,
                                              "regularise": "Smooth"}),
        "points": ("dreammapping", SMALL), "a field": ("field", FIELD), "pictures": ("text2image", {"steps": 4})}


def bits(stage) -> dict[str, bytes]:
    return {name: leaf.numpy().tobytes() for name, leaf in stage.scene.state_dict().items()}


def ran(name: str, n: int):
    method, changes = RUNS[name]
    with threads(n):
        item = next(work(METHODS[method].ask("a red mug", changes=changes)))
        last = [*item.run(progress=False)][-1]
    return bits(item.stage), last


@pytest.mark.parametrize("name", RUNS)
def test_any_number_of_threads_gives_the_same_bits(name):
    one, *others = (ran(name, n) for n in (1, 2, 3, 2))  # 2 again: which thread comes first is a matter of chance
    for other in others:
        assert one[0] == other[0] and one[1].grad_norm == other[1].grad_norm
        assert torch.equal(one[1].residual.value, other[1].residual.value)


@pytest.mark.parametrize("name", ["VSD", "a field"])
def test_a_run_goes_on_with_another_number_of_threads(name, tmp_path):
    whole, _ = ran(name, 1)
    method, changes = RUNS[name]
    for n, stop in ((2, 2), (1, 4)):
        with threads(n):
            item = next(work(METHODS[method].ask("a red mug", changes=changes), tmp_path))
            for step in (steps := item.run(progress=False)):
                if step.step + 1 == stop:
                    break
            steps.close()
    assert bits(item.stage) == whole


def test_the_gradient_is_that_of_the_whole_batch():
    """Against one backward pass through all views at once, five of them in two pieces."""
    stage = METHODS["ball"].toy["shape"].set(SMALL | {"regularise": "Smooth"}).build("a red mug")
    stage.background = lambda n, generator: torch.full((n, 3), 0.9)
    with torch.no_grad():  # long ones: of a ball, turns have no gradient
        stage.scene.raw["scales"] += 0.5 * torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    before = {k: v.clone() for k, v in stage.scene.state_dict().items()}
    step = advance(stage, make_optimiser(stage), 0)
    found = {k: v.grad for k, v in stage.scene.parameters().items()}
    stage.scene.load_state_dict(before)
    whole, leaves = stage.scene.render(step.cameras, stage.resolution, torch.full((3,), 0.9)), stage.scene.parameters()
    torch.testing.assert_close(step.render.rgb, whole.rgb)
    loss = distill(stage.prior.encode(whole.rgb), step.residual) / 5 + stage.regularise(stage.scene, whole)
    for (name, _leaf), gradient in zip(leaves.items(), torch.autograd.grad(loss, [*leaves.values()]), strict=True):
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5 * gradient.abs().max().item(), msg=name)


def test_outside_a_step_a_batch_is_whole_and_inside_it_has_pieces_that_cover_it():
    assert pieces(5) == [slice(0, 5)] and pieces(0) == [slice(0, 0)]
    for n in (1, 2, 3):
        with threads(n), sharing(CPU):
            assert torch.get_num_threads() == 1
            for size in (1, 2, 5, 8):
                rows = pieces(size)
                assert len(rows) == max(1, min(size // 2, PIECES)) and torch.arange(size).tolist() == [
                    i for part in rows for i in range(size)[part]]
            with sharing(CPU):  # once is enough
                assert len(pieces(5)) == PIECES
            if n > 1:
                assert each(lambda _: (torch.get_num_threads(), len(pieces(5))), [0, 1]) == [(1, 1)] * 2
    before = torch.get_num_threads()
    with pytest.raises(ValueError, match="mine"), threads(2), sharing(CPU):
        raise ValueError("mine")
    assert torch.get_num_threads() == before and pieces(5) == [slice(0, 5)]


def test_each_keeps_order_and_gradients_and_waits_before_it_raises():
    meet, ended = threading.Barrier(2, timeout=20), []

    def together(i: int) -> tuple[int, bool]:
        meet.wait()  # two of them are at work at once
        return i, torch.is_grad_enabled()

    def fails(i: int) -> None:
        if i == 0:
            raise ValueError("the first")
        ended.append(i)

    with threads(2), sharing(CPU):
        assert each(together, [3, 1]) == [(3, True), (1, True)]
        with torch.no_grad():
            assert each(together, [0, 1]) == [(0, False), (1, False)]
        with pytest.raises(ValueError, match="the first"):
            each(fails, [0, 1])
        assert ended == [1]
        x, apart = torch.tensor([1.0, 2.0], requires_grad=True), torch.ones(1, requires_grad=True)
        a, b = gradients(lambda k: k * x.square().sum(), [1.0, 2.0], [x, apart])
    assert a.tolist() == [6.0, 12.0] and b is None


def test_another_device_is_left_alone():
    before = torch.get_num_threads()
    with sharing(torch.device("meta")):
        assert torch.get_num_threads() == before and pieces(4) == [slice(0, 4)]


def test_what_nothing_waits_for_has_ended_with_the_step_and_fails_with_it():
    done = []

    def fail():
        raise FloatingPointError("not finite")

    later(lambda: done.append(0))
    assert done == [0]  # at once where nothing is shared
    with threads(2):
        with sharing(CPU):
            later(lambda: (time.sleep(0.05), done.append(threading.get_ident())))
        assert len(done) == 2 and done[1] != threading.get_ident()
        with pytest.raises(FloatingPointError, match="not finite"), sharing(CPU):
            later(fail)
        with pytest.raises(ValueError, match="the step's own"), sharing(CPU):
            later(fail)
            raise ValueError("the step's own error comes first")
