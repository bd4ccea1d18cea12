"""The benchmark of the rules: its parts add up, its counts are the equations', and it runs at SD 2.1's shape, made small."""
import time

import pytest
import torch

from benchmarks.bench_rules import PARTS, SD21, Clock, bench, main, sd21_prior, table
from dreamlab.rules import RULES

TINY = {"sample_size": 8, "block_out_channels": (32, 32, 32, 32), "attention_head_dim": (1, 1, 2, 2), "cross_attention_dim": 16,
        "layers_per_block": 1}


def test_nested_calls_count_once_and_the_owner_is_left_as_it_was():
    class Both:
        def outer(self):
            time.sleep(0.02)
            self.inner()

        def inner(self):
            time.sleep(0.05)

    both, clock = Both(), Clock(torch.device("cpu"))
    with clock.on(both, "outer", "fit"), clock.on(both, "inner", "prior"):
        both.outer()
        assert clock.ms["fit"] >= 70 and clock.ms["prior"] == 0
        both.inner()
        assert clock.ms["prior"] >= 50
    assert not vars(both)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_rule_is_timed_at_the_small_shape_of_sd21(dtype):
    prior, prompt = sd21_prior("cpu", dtype, **TINY)
    result = bench(prior, prompt, rounds=1, batch=2)
    rows = result["rules"]
    assert list(rows) == RULES and all(name in table(result) for name in RULES)
    for row in rows.values():
        assert sum(row[p] for p in PARTS) == pytest.approx(row["step"]) and min(row[p] for p in PARTS) >= 0
    count = {name: (row["rows"], row["back"]) for name, row in rows.items()}
    assert count["SDS"] == count["VDM"] == count["SSD"] == (4, 0)  # two conditions for two pictures, nothing comes back
    assert count["VSD"] == count["APFO"] == (8, 2)  # two conditions, the fit, the critic's prediction
    assert count["ASD"] == (10, 2)  # and the frozen prediction that its critic is pushed from
    assert count["LODS"] == (6, 2)  # one condition only
    fitted = {name for name in RULES if rows[name]["fit"]}
    assert fitted >= {"VSD", "VDM", "APFO", "ASD", "LODS"}
    assert not fitted & {"SDS", "CSD", "NFSD", "ISM", "LMCSDS", "SSD", "Consistent3D", "SDI", "PFD"}
    assert "_eps" not in vars(prior) and not prior.unet._forward_pre_hooks


def test_the_shape_is_that_of_sd21():
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**SD21)
    assert sum(p.numel() for p in unet.parameters()) == 865_910_724  # as the published weights


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["--sd21"]) == 2
    assert "needs a CUDA GPU" in capsys.readouterr().err
