"""The command line, end to end, and the errors that come before any work."""
import json

import numpy as np
import pytest
from PIL import Image

from dreamlab.cli import main
from dreamlab.export import load_ply


def test_a_prompt_becomes_a_folder(tmp_path, capsys):
    assert main(["dream", "a red mug", "--steps", "2", "--out", str(tmp_path)]) == 0
    folder = tmp_path / "a-red-mug-seed0"
    out = capsys.readouterr().out
    for file in ("turntable.gif", "contact_sheet.png", "gaussians.ply", "metrics.json", "settings.json"):
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


def test_bad_steps_are_named(tmp_path, capsys):
    assert main(["dream", "a red mug", "--steps", "-1", "--out", str(tmp_path)]) == 2
    assert "steps must be at least 0, got -1" in capsys.readouterr().err
