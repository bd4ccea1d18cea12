"""Two cores that count: a step's views are shared out over threads, in pieces that do not depend on how many threads there are.

A step on a CPU is many small operations, and threads inside an operation wait for each other longer than they work. So within
:func:`sharing` an operation has one thread, and :func:`each` gives a thread to each of ``PIECES`` pieces of the batch, if torch
had more than one (``torch.set_num_threads``, ``OMP_NUM_THREADS``). The pieces, and the order in which their gradients are
added, are the same for any number of threads: so are the bits.
"""
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

PIECES = 2  # of a batch at most: more of them cost more than further cores of a laptop bring
In, Out = TypeVar("In"), TypeVar("Out")
_crew: ContextVar[tuple[ThreadPoolExecutor, ...]] = ContextVar("crew", default=())
_pieces: ContextVar[int] = ContextVar("pieces", default=1)
_later: ContextVar[list[Future] | None] = ContextVar("later", default=None)


@cache
def crew() -> tuple[ThreadPoolExecutor, ...]:
    """A thread for each piece and one for :func:`later`, in which an operation has one thread.

    A piece's own thread draws it and differentiates it: autograd adds up in the order in which a thread made the graph, and
    knows no order between two threads.
    """
    return tuple(ThreadPoolExecutor(1, "dreamlab", lambda: torch.set_num_threads(1)) for _ in range(PIECES + 1))


@contextmanager
def threads(n: int) -> Iterator[int]:
    """Inside, an operation has n threads; gives how many it had."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield before
    finally:
        torch.set_num_threads(before)


@contextmanager
def sharing(device: torch.device) -> Iterator[None]:
    """Inside, on a CPU, batches come in pieces and an operation has one thread; the pieces have threads of their own if it had
    several before. On another device nothing changes."""
    if device.type != "cpu" or _pieces.get() > 1:
        yield
        return
    with threads(1) as n:
        tokens = _pieces.set(PIECES), _crew.set(crew() if n > 1 else ()), _later.set([])
        try:
            yield
        finally:
            wait(begun := _later.get())
            for variable, token in zip((_pieces, _crew, _later), tokens, strict=True):
                variable.reset(token)
        for future in begun:
            future.result()


def pieces(n: int, whole: int = 1) -> list[slice]:
    """The rows of a batch of n, in pieces of two rows at least; in one where nothing is shared. No piece ends within ``whole``
    rows, of which n has a multiple."""
    k, n = max(1, min(_pieces.get(), n // max(2, whole))), n // whole  # torch's GroupNorm refuses one row with one pixel
    return [slice(i * n // k * whole, (i + 1) * n // k * whole) for i in range(k)]


def each(function: Callable[[In], Out], items: Sequence[In]) -> list[Out]:
    """``[function(item) for item in items]`` for the pieces of a batch, each on the thread of its own. All have ended when it
    returns, or raises the error of the first that failed."""
    workers = _crew.get()
    if len(items) < 2 or not workers:
        token = _pieces.set(1)  # a piece has no pieces, as in a thread
        try:
            return [function(item) for item in items]
        finally:
            _pieces.reset(token)
    gradients = torch.is_grad_enabled()  # each thread has its own

    def work(item: In) -> Out:
        with torch.set_grad_enabled(gradients):
            return function(item)

    futures = [worker.submit(work, item) for worker, item in zip(workers[:PIECES], items, strict=True)]
    wait(futures)
    return [future.result() for future in futures]


def later(work: Callable[[], object]) -> None:
    """Do what nothing else in a step waits for: beside it, where the pieces have threads, and at once elsewhere. It has ended
    when :func:`sharing` ends, which raises its error."""
    if _crew.get():
        _later.get().append(_crew.get()[-1].submit(work))
    else:
        work()


def gradients(loss: Callable[[In], Tensor], items: Sequence[In], leaves: Sequence[Tensor]) -> list[Tensor | None]:
    """Those of the sum of ``loss(item)``, added in the order of the items; None for a leaf that none of them reaches."""
    found = each(lambda item: torch.autograd.grad(loss(item), leaves, allow_unused=True), items)
    parts = [[part for part in of if part is not None] for of in zip(*found, strict=True)]
    return [sum(of[1:], of[0]) if of else None for of in parts]
