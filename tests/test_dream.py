"""The command line, end to end, and the errors that come before any work."""
import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dreamlab import pipeline, runs
from dreamlab.cli import main
from dreamlab.methods import METHODS
from dreamlab.priors.critic import LoRACritic
from dreamlab.priors.diffusion import BUNDLED, DiffusionPrior
from dreamlab.rules import RULES
from dreamlab.scenes.gaussians import load_ply
from dreamlab.settings import name_of


def paint(out, *options, prompt="a red mug"):
    """``dreamlab dream --scene picture`` and its exit status."""
    return main(["dream", prompt, "--scene", "picture", "--out", str(out), *options])


@pytest.fixture
def elsewhere(tmp_path):
    """The bundled prior without its card: a folder as any other, of no known world."""
    folder = tmp_path / "elsewhere" / "prior"
    shutil.copytree(BUNDLED["toybox"], folder)
    (folder / "dreamlab.json").unlink()
    return str(folder)


@pytest.mark.slow
def test_a_prompt_becomes_a_folder(tmp_path, capsys):
    assert main(["dream", "a red mug", "--steps", "2", "--out", str(tmp_path)]) == 0
    folder = tmp_path / "a-red-mug-seed0"
    out = capsys.readouterr().out
    for file in ("turntable.gif", "viewer.html", "contact_sheet.png", "gaussians.ply", "metrics.json", "settings.json"):
        assert (folder / file).stat().st_size > 0 and str(folder / file) in out
    with Image.open(folder / "turntable.gif") as gif:
        assert gif.size == (256, 256) and gif.n_frames == 36
    assert len(load_ply(folder / "gaussians.ply")) == settings(folder)["start"]["points"]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert 0 < metrics["iou"] <= 1 and metrics["colour_read"] == "red" and len(metrics["front_scores"]) == 24
    assert not list(folder.glob("*.part"))
    before = (folder / "gaussians.ply").read_bytes()
    assert main(["dream", "a red mug", "--steps", "2", "--out", str(tmp_path)]) == 0  # already done: the same again
    assert (folder / "gaussians.ply").read_bytes() == before
    assert main(["dream", "a red mug", "--steps", "3", "--out", str(tmp_path)]) == 2  # another run, the same folder
    assert "other settings" in capsys.readouterr().err
    assert (folder / "gaussians.ply").read_bytes() == before
    assert settings(folder)["steps"] == 2
    (folder / "turntable.gif").unlink()  # a part whose files are not all there is not done
    assert main(["dream", "a red mug", "--steps", "2", "--out", str(tmp_path)]) == 0
    assert (folder / "turntable.gif").exists() and (folder / "gaussians.ply").read_bytes() == before


def settings(folder):
    return json.loads((folder / "settings.json").read_text())["settings"]


@pytest.mark.slow
def test_a_toy_by_another_rule_and_guidance(tmp_path):
    options = ["--rule", "SDS", "--guidance", "5", "--prior", "toybox", "--steps", "1", "--seed", "2"]
    assert main(["dream", "a red mug", "--out", str(tmp_path), *options]) == 0
    folder = tmp_path / "a-red-mug-sds-seed2"
    rule = settings(folder)["rule"]
    assert (rule["is"], rule["guidance"], settings(folder)["start"]["points"]) == ("SDS", 5, 3000)
    assert (folder / "metrics.json").exists()


def test_methods_rules_and_prompts_have_folders_of_their_own(tmp_path, monkeypatch):
    """Two prompts with the same first 40 letters too: the second must not be told to remove the first's result."""
    def stop(asked, folder, *_):
        folders.append(folder.name)
        raise KeyboardInterrupt

    folders = []
    monkeypatch.setattr(runs, "work", stop)
    for options in ([], ["--method", "ball"], ["--scene", "picture"], ["--method", "text2image-pixels"]):
        assert main(["dream", "a red mug", "--rule", "SDS", "--out", str(tmp_path), *options]) == 130
    assert folders == [f"a-red-mug{what}-sds-seed0" for what in ("", "-ball", "-text2image", "-text2image-pixels")]
    prompts = ("a red mug", "A red mug", "a red mug!", *(f"a photo of a red mug on a large table beside {x}" for x in "ab"))
    names = {runs.folder_name(METHODS["dreammapping"].ask(prompt)) for prompt in prompts}
    assert len(names) == len(prompts) and max(map(len, names)) < 80


def test_another_prior_is_the_full_run_and_needs_a_gpu(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(DiffusionPrior, "load", lambda *where: asked.append(where) or pytest.fail("loaded"))
    command = ["dream", "a corgi", "--prior", "sd-2.1-base", "--out", str(tmp_path)]
    for found, kernels, says in ((False, True, "need a CUDA GPU"), (True, False, "draws with gsplat, which is not installed")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda found=found: found)
        monkeypatch.setattr(pipeline, "find_spec", lambda name, kernels=kernels: kernels or None)
        assert main(command) == 2 and says in capsys.readouterr().err and not asked and not list(tmp_path.iterdir())
    monkeypatch.setattr(pipeline, "find_spec", lambda name: True)
    with pytest.raises(pytest.fail.Exception):
        main(command)
    assert asked == [("sd-2.1-base", "cuda")]
    monkeypatch.setattr(runs, "dream", lambda *what: asked.append(what[0]))
    assert main([*command, "--rule", "ISM", "--set", "start.prior=toybox"]) == 0
    wanted = METHODS["dreammapping"].ask("a corgi", "paper", 0, {"rule": "ISM", "start.prior": "toybox"})
    assert asked[1].settings("shape") == wanted.settings("shape") and asked[1].tag("shape") == wanted.tag("shape")


def test_a_toy_stays_on_the_cpu_where_there_is_a_gpu(monkeypatch):
    """Notebooks, their outputs and `make demo` are the same on every machine, and need no kernels."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    made = (METHODS["dreammapping"].toy["shape"].set({"start.points": 60}), METHODS["text2image"].toy["pictures"])
    assert {part.build("a red mug").prior.device.type for part in made} == {"cpu"}


@pytest.mark.slow
def test_the_bundled_folder_elsewhere_does_all_that_toybox_does(tmp_path, monkeypatch):
    """What a prior knows stands in its folder: size, device and measures follow from that, and not from a name."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    shutil.copytree(BUNDLED["toybox"], tmp_path / "copy")
    options = ["--set", "start.points=60", "--set", "resolution=32", "--steps", "1"]
    for name, prior in (("a", "toybox"), ("b", str(tmp_path / "copy"))):
        assert main(["dream", "a red mug", "--prior", prior, "--out", str(tmp_path / name), *options]) == 0
    a, b = (tmp_path / name / "a-red-mug-seed0" for name in "ab")
    assert {f.name for f in a.iterdir()} == {f.name for f in b.iterdir()} and (b / "metrics.json").exists()
    for file in ("gaussians.ply", "metrics.json", "contact_sheet.png"):
        assert (a / file).read_bytes() == (b / file).read_bytes(), file
    assert main(["dream", "a red zebra", "--prior", str(tmp_path / "copy"), "--out", str(tmp_path / "c")]) == 2


def test_what_is_no_toy_is_drawn_and_not_measured(tmp_path, elsewhere):
    small = {"prior": elsewhere, "steps": 1, "start.points": 60, "resolution": 32}
    folder = runs.dream(METHODS["ball"].ask("A glass castle", changes=small), tmp_path)
    assert {file.name for file in folder.iterdir()} == {
        "turntable.gif", "viewer.html", "contact_sheet.png", "gaussians.ply", "settings.json", "checkpoint.safetensors",
        "start.safetensors", "scene.safetensors"}


@pytest.mark.slow
def test_a_radiance_field_is_measured_too(tmp_path):
    row, files = runs.measure(METHODS["field"].ask("a red mug", changes={
        "steps": 1, "views": 1, "resolution": 16, "start.samples": 4, "start.levels": 1}), tmp_path)
    assert 0 < row["iou"] <= 1 and "gaussians" not in row and files.keys() == {"views.webp", "scene.safetensors"}


@pytest.mark.parametrize("prompt", ["a red zebra", "a mug", "nothing", "a red blue mug"])
def test_words_outside_the_toybox_are_refused_with_a_list(prompt, tmp_path, capsys):
    assert main(["dream", prompt, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "snowman" in error and "purple" in error and not list(tmp_path.iterdir())


def test_ctrl_c_leaves_a_usable_result(tmp_path, monkeypatch, capsys):
    def stop(*args, **kwargs):
        for step in run(*args, **kwargs):
            if step.step == 1:
                raise KeyboardInterrupt
            yield step

    run = pipeline.run
    monkeypatch.setattr(pipeline, "run", stop)
    assert main(["dream", "a blue owl", "--steps", "4", "--out", str(tmp_path)]) == 130
    folder = tmp_path / "a-blue-owl-seed0"
    assert np.isfinite(load_ply(folder / "gaussians.ply").means.detach().numpy()).all()
    assert (folder / "checkpoint.safetensors").exists() and "goes on from it" in capsys.readouterr().err


def test_bad_numbers_are_named(tmp_path, capsys):
    assert main(["dream", "a red mug", "--steps", "-1", "--out", str(tmp_path)]) == 2
    assert "steps must be a whole number in [0, 10000000] or none, got -1: change steps" in capsys.readouterr().err
    assert main(["dream", "a red mug", "--seed", str(10**22), "--out", str(tmp_path)]) == 2
    assert "seed must be a whole number in [-100000000000" in capsys.readouterr().err
    assert main(["toybox", "train", "points", "--steps", "-3", "--out", str(tmp_path)]) == 2
    assert "steps must be a whole number in [1, 10000000] or none, got -3" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("options, name", [
    (["--rule", "CSD"], "a-red-mug-text2image-csd-seed0"),
    (["--rule", "SDS", "--guidance", "1", "--set", "start.pictures=4", "--seed", "3"], "a-red-mug-text2image-sds-seed3")])
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
    assert settings(folder)["steps"] == 3


def test_another_prior_takes_any_prompt_and_is_not_measured_against_toys(tmp_path, capsys, elsewhere):
    options, out = ["--rule", "SSD", "--steps", "1", "--prior", elsewhere], tmp_path / "out"
    assert paint(out, *options, prompt="a castle of transparent glass") == 2
    assert "shorten" in capsys.readouterr().err and not out.exists()  # unknown words are spelt in letters
    assert paint(out, *options, prompt="A castle/of glass") == 0
    folder, = out.glob("a-castle-of-glass-??????-text2image-ssd-seed0")
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
    whole, stopped = (tmp_path / name / "a-red-mug-text2image-vsd-seed0" for name in ("whole", "stopped"))
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
    (["--scene", "picture", "--method", "ball"], ["--scene picture", "--method ball"]),
    (["--scene", "mesh"], ["no start 'mesh'", "ball", "blob"]),
    (["--method", "magic"], ["no method 'magic'", "dreammapping", "text2image"]),
    (["--tier", "gpu"], ["tier", "'gpu'", "paper"]),
    (["--until", "mesh"], ["until", "'mesh'", "shape"]),
    (["--scene", "picture", "--rule", "CSD", "--guidance", "5"], ["CSD has no 'guidance'", "VSD"]),
    (["--rule", "CSD", "--guidance", "5"], ["CSD has no 'guidance'", "VSD"]),
    (["--rule", "VSD", "--guidance", "0.5"], ["rule.guidance must be a number at least 1", "got 0.5"]),
    (["--scene", "picture", "--rule", "VSD", "--guidance", "0.5"], ["rule.guidance must be a number at least 1", "got 0.5"]),
    (["--scene", "picture", "--rule", "SDS", "--steps", "-1"], ["steps must be", "got -1"]),
    (["--scene", "picture", "--prior", "nowhere/at-all"], ["no weights for 'nowhere/at-all'", "toybox"])])
def test_bad_options_are_named_before_any_work(options, said, tmp_path, capsys):
    assert main(["dream", "a red mug", "--out", str(tmp_path), *options]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in said) and not list(tmp_path.iterdir()), error


@pytest.mark.parametrize("prompt, known", [("a red zebra", True), ("?!", False)])
def test_pictures_need_words_that_the_prior_knows(prompt, known, tmp_path, capsys, elsewhere):
    out = tmp_path / "out"
    assert paint(out, "--prior", "toybox" if known else elsewhere, prompt=prompt) == 2
    assert ("snowman" if known else "has no words") in capsys.readouterr().err and not out.exists()


def test_a_scene_is_named_by_its_start_or_by_itself(tmp_path, monkeypatch):
    """``--scene gaussians`` is what there is without it; a field is a blob at first; pictures are a method of their own."""
    asked = []
    monkeypatch.setattr(runs, "dream", lambda *what: asked.append(what[0]))
    for scene in ("gaussians", "points", "nerf", "blob", "ball", "picture"):
        assert main(["dream", "a red mug", "--scene", scene, "--out", str(tmp_path)]) == 0
    starts = [name_of(next(iter(x.parts.values())).start) for x in asked]
    assert starts == ["points", "points", "blob", "blob", "ball", "latents"]
    assert asked[0].tag("shape") == METHODS["dreammapping"].ask("a red mug").tag("shape")


def test_methods_are_listed_with_a_line_each_and_all_their_settings(capsys):
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(METHODS)
    assert main(["methods", "field-to-gaussians"]) == 0
    assert "gaussians.start.of" in (out := capsys.readouterr().out) and "field.rule.guidance" in out
    assert main(["methods", "magic"]) == 2
