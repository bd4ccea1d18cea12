"""The dry run at the paper's size: made tiny it runs here, its parts add up, and its shapes are Stable Diffusion 2.1's."""
import json
from pathlib import Path

import pytest
import torch

from benchmarks import paper_parts, paper_size
from benchmarks.paper_size import PARTS, RULES, VAE, main
from dreamlab.methods import METHODS
from dreamlab.methods.dreamflow import PAPER
from dreamlab.priors.critic import LoRACritic
from dreamlab.settings import describe, difference, options


def test_tiny_times_the_pipelines_own_step(tmp_path, capsys):
    grad = torch.autograd.grad
    assert main(["--tiny", "--rounds", "2", "--json", str(tmp_path / "tiny.json")]) == 0
    found = json.loads((tmp_path / "tiny.json").read_text())
    for runs in found["runs"].values():
        for rule in RULES:
            share = runs[rule]["share"]
            assert list(share) == list(PARTS) and sum(share.values()) == pytest.approx(1) and min(share.values()) >= 0
            assert all(share[part] > 0 for part in PARTS if part != "predict") and (share["predict"] > 0) == (rule == "VSD")
            assert runs[rule]["minutes"] == pytest.approx(runs[rule]["seconds a step"] * found["steps"] / 60)
            assert runs[rule]["gaussians"] == found["points"]  # growth observed only
        assert runs["VSD / VDM"] > 0
    assert found["tiny"] and {"processor", "versions", "date", "seed", "paper"} <= found.keys()
    assert "VSD / VDM" in capsys.readouterr().out
    assert torch.autograd.grad is grad  # the clock is off again


def test_without_a_gpu_it_says_so_and_writes_nothing(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["--json", str(tmp_path / "paper.json")]) == 2
    assert "needs a CUDA GPU" in capsys.readouterr().err and not any(tmp_path.iterdir())


def test_full_size_is_the_papers(monkeypatch):
    """Settings and shapes that a GPU is asked for: the paper's, all but the points prior and that growth only observes."""
    asked = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "none")

    def bench(prior, part, rounds, seed):
        asked["part"] = part
        raise KeyboardInterrupt

    class Nothing:
        unet = vae = type("Model", (), {"num_parameters": lambda self: 0})()

    monkeypatch.setattr(paper_size, "bench", bench)
    monkeypatch.setattr(paper_size, "whole_prior", lambda device, dtype, seed, **sizes: asked.update(sizes=sizes) or Nothing())
    with pytest.raises(KeyboardInterrupt):
        main([])
    assert asked["sizes"] == {}
    part, paper = asked["part"], METHODS["dreammapping"].paper["shape"]
    assert difference(describe(part), describe(paper)) == {"start.prior": "toybox", "growth.until": 0}
    assert (part.start.keywords["points"], part.resolution, part.views, part.steps) == (50_000, 512, 4, 5000)


def test_the_autoencoder_has_the_published_size():
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        assert sum(p.numel() for p in AutoencoderKL(**VAE).parameters()) == 83_653_863


def test_dreamflows_parts_have_the_published_networks():
    """Stable Diffusion 2.1's and the refiner's numbers of parameters, and scenes with the leaves that the settings ask for."""
    prior, text = paper_parts.network("sd-2.1-base", 64)
    assert (prior.unet.num_parameters(), prior.vae.num_parameters(), text) == (865_910_724, 83_653_863, 340_387_840)
    critic = LoRACritic(prior)
    rows = json.loads((Path(paper_parts.__file__).parent / "results/paper_parts.json").read_text())["rows"]
    assert [row["part"] for row in rows] == list(PAPER)
    for row, part in zip(rows, PAPER.values(), strict=True):
        assert row["steps"] == options(part.rule)["grid"][1].steps and row["render"] == part.resolution
        assert row["scene"] == part.scene.__name__
        assert sum(row["parameters"][k] for k in ("unet", "vae", "text_encoder")) == (
            6_075_680_726 // 2 if part.prior == "sdxl-refiner" else 865_910_724 + 83_653_863 + 340_387_840)
        assert row["about_gb"] == pytest.approx(row["stays_gb"] + max(row["moves_gb"].values()), abs=0.06)
    assert rows[0]["lora"] == sum(p.numel() for p in critic.learner.parameters.values()) > 0 == rows[1]["lora"]
    made: dict = {}
    for name in ("nerf", "geometry"):
        made[name] = paper_parts.scene(PAPER[name], prior, made)
    tables = sum(min((int(16 * 256 ** (level / 15) + 1e-6) + 1) ** 3, 2**19) * 4 for level in range(16))
    assert rows[0]["leaves"] - tables == sum(p.numel() for p in made["nerf"].mlps.parameters())
    assert sum(p.numel() for p in made["geometry"].parameters().values()) == rows[1]["leaves"]
    assert len(made["geometry"].shape["start"]) == 129


def test_geodreams_parts_have_the_published_networks():
    """Those that make its views, Stable Diffusion 2.1's with a critic that embeds cameras, and a volume of 16 x 150^3."""
    parts, rows = METHODS["geodream"].paper, json.loads(
        (Path(paper_parts.__file__).parent / "results/paper_geodream.json").read_text())["rows"]
    assert [row["part"] for row in rows] == ["views", "turn", *parts]
    for row, unet in zip(rows, (867_572_164, 859_532_484, 865_910_724, 865_910_724, 865_910_724), strict=True):
        assert row["parameters"]["unet"] == unet and row["parameters"]["vae"] == 83_653_863
    for name in (paper_parts.MVDREAM, paper_parts.ZERO123):
        prior, _ = paper_parts.network(name, 32)
        assert set(paper_parts.moves(prior, None, 4, 256, learns=False)) == {"predict"}
    ball = paper_parts.neus({k: v for k, (_, v) in options(parts["neus"].start).items()}, ball=True)
    assert sum(p.numel() for p in ball.parameters().values()) == rows[2]["leaves"] > 16 * 150**3
    assert rows[2]["lora"] > rows[0]["lora"] == rows[3]["lora"] == 0
    for row, part in zip(rows[2:], parts.values(), strict=True):
        assert (row["steps"], row["render"], row["views"]) == (part.steps, part.resolution, part.views)
