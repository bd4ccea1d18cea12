"""The command line, end to end, and the errors that come before any work."""
import json
import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dreamlab.cli import main
from dreamlab.export import load_ply
from dreamlab.pipelines import dreammapping, picture
from dreamlab.priors.critic import LoRACritic
from dreamlab.priors.diffusion import BUNDLED, DiffusionPrior
from dreamlab.rules import RULES


def paint(out, *options, prompt="a red mug"):
    """``dreamlab dream --scene picture`` and its exit status."""
    return main(["dream", prompt, "--scene", "picture", "--out", str(out), *options])


@pytest.mark.slow
def test_a_prompt_becomes_a_folder(tmp_path, capsys):
    assert main(["dream", "a red mug", "--steps", "2", "--out", str(tmp_path)]) == 0
    folder = tmp_path / "a-red-mug-seed0"
    out = capsys.readouterr().out
    for file in ("turntable.gif", "viewer.html", "contact_sheet.png", "gaussians.ply", "metrics.json", "settings.json"):
        assert (folder / file).stat().st_size > 0 and str(folder / file) in out
    with Image.open(folder / "turntable.gif") as gif:
        assert gif.size == (256, 256) and gif.n_frames == 36
    assert len(load_ply(folder / "gaussians.ply")) == json.loads((folder / "settings.json").read_text())["points"]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert 0 < metrics["iou"] <= 1 and metrics["colour"] == "red"
    assert not list(folder.glob("*.part"))
    before = (folder / "gaussians.ply").read_bytes()
    assert main(["dream", "a red mug", "--steps", "2", "--out", str(tmp_path)]) == 0  # already done: the same again
    assert (folder / "gaussians.ply").read_bytes() == before
    assert main(["dream", "a red mug", "--steps", "3", "--out", str(tmp_path)]) == 2  # another run, the same folder
    assert "other settings" in capsys.readouterr().err
    assert (folder / "gaussians.ply").read_bytes() == before
    assert json.loads((folder / "settings.json").read_text())["steps"] == 2


@pytest.mark.slow
def test_a_toy_by_another_rule_and_guidance(tmp_path):
    options = ["--rule", "SDS", "--guidance", "5", "--prior", "toybox", "--steps", "1", "--seed", "2"]
    assert main(["dream", "a red mug", "--out", str(tmp_path), *options]) == 0
    folder = tmp_path / "a-red-mug-sds-seed2"
    settings = json.loads((folder / "settings.json").read_text())
    assert (settings["rule"], settings["guidance"], settings["points"]) == ("SDS", 5.0, 3000)
    assert (folder / "metrics.json").exists()


def test_pictures_and_gaussians_of_one_rule_have_folders_of_their_own(tmp_path, monkeypatch):
    def stop(plan, settings, folder, *_):
        folders.append(folder.name)
        raise KeyboardInterrupt

    folders = []
    monkeypatch.setattr("dreamlab.demo.distil", stop)
    for options in ([], ["--ball"], ["--scene", "picture"], ["--scene", "picture", "--pixels"]):
        assert main(["dream", "a red mug", "--rule", "SDS", "--out", str(tmp_path), *options]) == 130
    assert folders == [f"a-red-mug-sds{what}-seed0" for what in ("", "-ball", "-latents", "-pixels")]


def test_another_prior_is_the_full_run_and_needs_a_gpu(tmp_path, monkeypatch, capsys):
    import dreamlab.demo as demo

    asked = []
    monkeypatch.setattr(DiffusionPrior, "load", lambda *where: asked.append(where) or pytest.fail("loaded"))
    command = ["dream", "a corgi", "--prior", "sd-2.1-base", "--out", str(tmp_path)]
    for found, kernels, says in ((False, True, "need a CUDA GPU"), (True, False, "draws with gsplat, which is not installed")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda found=found: found)
        monkeypatch.setattr(dreammapping, "find_spec", lambda name, kernels=kernels: kernels or None)
        assert main(command) == 2 and says in capsys.readouterr().err and not asked
    monkeypatch.setattr(dreammapping, "find_spec", lambda name: True)
    with pytest.raises(pytest.fail.Exception):
        main(command)
    assert asked == [("sd-2.1-base", "cuda")]
    monkeypatch.setattr(demo, "dream", lambda settings, out: asked.append(settings))
    assert main([*command, "--rule", "ISM", "--points-prior", "toybox"]) == 0
    assert asked[1:] == [demo.Settings("a corgi", rule="ISM", points_prior="toybox")]


def test_a_toy_stays_on_the_cpu_where_there_is_a_gpu(monkeypatch):
    """Notebooks, their outputs and `make demo` are the same on every machine, and need no kernels."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    made = (dreammapping.stage(dreammapping.Settings("a red mug").toy(points=60)), picture.stage(picture.Settings("a red mug")))
    assert {plan.prior.device.type for plan in made} == {"cpu"}


def test_what_is_no_toy_is_drawn_and_not_measured(tmp_path):
    from dreamlab.demo import Settings, dream

    small = Settings("A glass castle", ball=True).toy(prior=str(BUNDLED["toybox"]), steps=1, points=60, resolution=32)
    folder = dream(small, tmp_path)
    assert {file.name for file in folder.iterdir()} == {
        "turntable.gif", "viewer.html", "contact_sheet.png", "gaussians.ply", "settings.json", "checkpoint.safetensors"}
    with pytest.raises(ValueError, match="got scene='nerf'"):
        dream(Settings("a red mug").toy(scene="nerf"), tmp_path / "nerf")


@pytest.mark.parametrize("prompt", ["a red zebra", "a mug", "", "a red blue mug"])
def test_words_outside_the_toybox_are_refused_with_a_list(prompt, tmp_path, capsys):
    assert main(["dream", prompt, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "snowman" in error and "purple" in error and not list(tmp_path.iterdir())


def test_ctrl_c_leaves_a_usable_result(tmp_path, monkeypatch, capsys):
    import dreamlab.demo as demo

    def stop(plan, *args, **kwargs):
        for step in run(plan, *args, **kwargs):
            if step.step == 1:
                raise KeyboardInterrupt
            yield step

    run = demo.run
    monkeypatch.setattr(demo, "run", stop)
    assert main(["dream", "a blue owl", "--steps", "4", "--out", str(tmp_path)]) == 130
    folder = tmp_path / "a-blue-owl-seed0"
    assert np.isfinite(load_ply(folder / "gaussians.ply").means.detach().numpy()).all()
    assert (folder / "checkpoint.safetensors").exists() and "goes on from it" in capsys.readouterr().err


def test_bad_numbers_are_named(tmp_path, capsys):
    assert main(["dream", "a red mug", "--steps", "-1", "--out", str(tmp_path)]) == 2
    assert "steps must be at least 0, got -1" in capsys.readouterr().err
    assert main(["dream", "a red mug", "--seed", str(10**22), "--out", str(tmp_path)]) == 2
    assert "seed must lie in" in capsys.readouterr().err
    assert main(["toybox", "train", "points", "--steps", "-3", "--out", str(tmp_path)]) == 2
    assert "steps must be at least 1, got -3" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("options, name", [
    (["--rule", "CSD"], "a-red-mug-csd-latents-seed0"),
    (["--rule", "SDS", "--guidance", "1", "--pixels", "--seed", "3"], "a-red-mug-sds-pixels-seed3")])
def test_a_prompt_becomes_pictures_by_any_rule(options, name, tmp_path, capsys):
    assert paint(tmp_path, "--steps", "3", *options) == 0
    folder, out = tmp_path / name, capsys.readouterr().out
    for file in ("picture.png", "progress.png", "metrics.json", "settings.json"):
        assert (folder / file).stat().st_size > 0 and str(folder / file) in out
    assert not list(folder.glob("*.part"))
    with Image.open(folder / "picture.png") as row:
        assert row.size == (4 * 256, 256)
    strip = np.asarray(Image.open(folder / "progress.png"))
    columns = np.split(strip[18:-4, 4:], 4, axis=1)  # after 0, 1, 2 and 3 steps, and each with its gap
    assert all(c.shape == (4 * 132 - 4, 132, 3) and (c[:128, :128] < 250).any() for c in columns)
    assert not np.array_equal(columns[0], columns[3])
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["saturation_ratio"] > 0 and 0 <= metrics["kind"] <= 1

    before = (folder / "picture.png").read_bytes()
    assert paint(tmp_path, "--steps", "3", *options) == 0  # already done: the same again
    assert paint(tmp_path, "--steps", "4", *options) == 2  # another run, the same folder
    assert "other settings" in capsys.readouterr().err
    assert (folder / "picture.png").read_bytes() == before
    assert np.array_equal(np.asarray(Image.open(folder / "progress.png")), strip)
    assert json.loads((folder / "settings.json").read_text())["steps"] == 3


def test_another_prior_takes_any_prompt_and_is_not_measured_against_toys(tmp_path, capsys):
    options = ["--rule", "SSD", "--steps", "1", "--prior", str(BUNDLED["toybox"])]  # a folder, as any other
    assert paint(tmp_path, *options, prompt="a castle of transparent glass") == 2
    assert "shorten" in capsys.readouterr().err and not list(tmp_path.iterdir())  # unknown words are spelt in letters
    assert paint(tmp_path, *options, prompt="A castle/of glass") == 0
    folder = tmp_path / "a-castle-of-glass-ssd-latents-seed0"
    assert (folder / "picture.png").exists() and not (folder / "metrics.json").exists()


@pytest.mark.slow
def test_ctrl_c_amid_a_step_goes_on_bit_for_bit(tmp_path, monkeypatch, capsys):
    """The signal comes when VSD's critic has taken its step and the pictures have not: the step must be finished first."""
    options = ["--rule", "VSD", "--steps", "4"]
    assert paint(tmp_path / "whole", *options) == 0

    fit = LoRACritic.fit

    def interrupted(critic, *args, **kwargs):
        loss = fit(critic, *args, **kwargs)
        if critic.fits == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return loss

    monkeypatch.setattr(LoRACritic, "fit", interrupted)
    before = signal.getsignal(signal.SIGINT)
    assert paint(tmp_path / "stopped", *options) == 130
    assert signal.getsignal(signal.SIGINT) is before and "goes on from it" in capsys.readouterr().err
    whole, stopped = (tmp_path / name / "a-red-mug-vsd-latents-seed0" for name in ("whole", "stopped"))
    assert (stopped / "picture.png").exists() and not (stopped / "metrics.json").exists()
    assert (stopped / "picture.png").read_bytes() != (whole / "picture.png").read_bytes()

    monkeypatch.setattr(LoRACritic, "fit", fit)
    assert paint(tmp_path / "stopped", *options) == 0
    for file in ("picture.png", "progress.png", "metrics.json"):
        assert (stopped / file).read_bytes() == (whole / file).read_bytes(), file
    a, b = (load_file(folder / "checkpoint.safetensors") for folder in (stopped, whole))  # its header is in no fixed order
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("options, said", [
    (["--scene", "picture", "--rule", "DDPM"], RULES),
    (["--rule", "DDPM"], RULES),
    (["--scene", "picture", "--ball"], ["--ball", "--scene gaussians"]),
    (["--scene", "picture", "--points-prior", "toybox"], ["--points-prior", "--scene gaussians"]),
    (["--pixels"], ["--pixels", "--scene picture"]),
    (["--scene", "picture", "--rule", "CSD", "--guidance", "5"], ["CSD has none", "VSD"]),
    (["--rule", "CSD", "--guidance", "5"], ["CSD has none", "VSD"]),
    (["--rule", "VSD", "--guidance", "0.5"], ["guidance must be >= 1 in VSD", "got 0.5"]),
    (["--scene", "picture", "--rule", "VSD", "--guidance", "0.5"], ["guidance must be >= 1 in VSD", "got 0.5"]),
    (["--scene", "picture", "--rule", "SDS", "--steps", "-1"], ["steps must be at least 0, got -1"]),
    (["--scene", "picture", "--prior", "nowhere/at-all"], ["no weights for 'nowhere/at-all'", "toybox"])])
def test_bad_options_are_named_before_any_work(options, said, tmp_path, capsys):
    assert main(["dream", "a red mug", "--out", str(tmp_path), *options]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in said) and not list(tmp_path.iterdir()), error


@pytest.mark.parametrize("prompt, prior", [("a red zebra", "toybox"), ("?!", str(BUNDLED["toybox"]))])
def test_pictures_need_words_that_the_prior_knows(prompt, prior, tmp_path, capsys):
    assert paint(tmp_path, "--prior", prior, prompt=prompt) == 2
    assert ("snowman" if prior == "toybox" else "has no words") in capsys.readouterr().err and not list(tmp_path.iterdir())
