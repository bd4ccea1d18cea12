"""Every shape annotation of dreamlab is checked while the tests run, and no test touches the network."""
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "agg")

import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook("dreamlab", "beartype.beartype")  # before anything imports dreamlab

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", min(2, os.cpu_count() or 1))))


@pytest.fixture(autouse=True)
def _seed():
    """A test that forgets its generator still sees the same numbers every time."""
    torch.manual_seed(0)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
