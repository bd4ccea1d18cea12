"""What a run does when it cannot go on: one line that says why, what was reached is kept, and nothing is half written."""
import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from dreamlab import assets, export, pipeline, report, runs, stage, sweep
from dreamlab.cli import main
from dreamlab.files import load_weights, write_json, writing
from dreamlab.mesh import Mesh
from dreamlab.methods import METHODS
from dreamlab.noise import seeded
from dreamlab.priors import diffusion, points
from dreamlab.priors.diffusion import BUNDLED, DiffusionPrior
from dreamlab.scenes.gaussians import Gaussians, load_ply, save_ply
from dreamlab.scenes.growth import Growth
from dreamlab.scenes.nerf import HashGrid, NeRF
from dreamlab.scenes.picture import Picture
from dreamlab.stage import run
from dreamlab.toybox.judge import Judge

SMALL = {"start.points": 60, "resolution": 32}
TINY = ["--set", "start.points=60", "--set", "resolution=32"]
LONG = "a red mug and " + "nothing but " * 97 + "a handle"  # 200 words


@pytest.fixture(scope="module")
def prior():
    return DiffusionPrior.load()


@pytest.fixture
def plan(prior):
    """A maker of small stages, by default without growth."""
    def make(rule="VDM", steps=4, growth=None, rates=None, points=60):
        toy = METHODS["dreammapping"].toy["shape"].set(SMALL | {"rule": rule, "steps": steps, "start.points": points})
        made = toy.set(growth=growth).build("a red mug", prior)
        made.rates = rates or made.rates
        return made

    return make


def held(made, optimiser=None):
    """Copies of all that a step of the stage changes."""
    return stage.snapshot(made, optimiser or stage.make_optimiser(made))


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@contextlib.contextmanager
def full_disk(room=200):
    """The system refuses to write a file beyond ``room`` bytes, in the midst of it, as it does where the disk is full."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def ball(n=60):
    return Gaussians.ball(n, generator=seeded(0))


def octahedron():
    x, y, z = torch.eye(3)
    faces = torch.tensor([[0, 1, 2], [1, 3, 2], [3, 4, 2], [4, 0, 2], [1, 0, 5], [3, 1, 5], [4, 3, 5], [0, 4, 5]])
    return Mesh(torch.stack([x, y, z, -x, -y, -z]), faces, torch.rand(6, 3))


WRITERS = {
    "scene.ply": lambda path: save_ply(ball(), path),
    "turntable.gif": lambda path: export.save_turntable(torch.rand(3, 32, 32, 3), path),
    "viewer.html": lambda path: export.save_viewer(ball(), path, views=2, elevations_deg=(0.0,), resolution=16, progress=False),
    "sheet.png": lambda path: report.save_image(Image.effect_noise((64, 64), 50), path),
    "metrics.json": lambda path: write_json(path, dict.fromkeys(map(str, range(100)), 1)),
    "table.csv": lambda path: sweep.write(path, [{"method": "a", "prompt": "b" * 300}]),
    "gaussians.safetensors": lambda path: ball().save(path),
    "picture.safetensors": lambda path: Picture.grey(16).save(path),
    "mesh.glb": lambda path: assets.save_glb(octahedron(), path),
    "mesh.obj": lambda path: assets.save_obj(octahedron(), path),
    "mesh.stl": lambda path: assets.save_stl(octahedron(), path),
    "model.html": lambda path: assets.save_asset_viewer(path, octahedron(), ball()),
    "nerf.safetensors": lambda path: NeRF(HashGrid(levels=1, entries=64)).save(path),
}

# a full disk


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_keeps_the_file_before_and_leaves_no_half(name, tmp_path):
    path = tmp_path / "new folder" / name
    WRITERS[name](path)
    before = path.read_bytes()
    with full_disk(), pytest.raises(OSError, match=f"{name} could not be written .*File too large.* goes on from its last"):
        WRITERS[name](path)
    assert path.read_bytes() == before and [f.name for f in path.parent.iterdir()] == [name]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_device_without_room_is_named(tmp_path):
    (tmp_path / "table.csv.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="table.csv could not be written .No space left on device."):
        sweep.write(tmp_path / "table.csv", [{"method": "a"}])
    assert not list(tmp_path.iterdir()) and Path("/dev/full").exists()


def test_other_errors_pass_through_and_leave_no_half_either(tmp_path):
    with pytest.raises(KeyboardInterrupt), writing(tmp_path / "file") as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match="file/inside could not be written"), writing(tmp_path / "file" / "inside") as part:
        pytest.fail("there is no such folder")


def test_a_full_disk_stops_a_run_that_goes_on_bit_for_bit(plan, tmp_path):
    whole, first, again = plan(), plan(), plan()
    list(run(whole, progress=False))
    file, limit = tmp_path / "checkpoint.safetensors", contextlib.ExitStack()
    with limit, pytest.raises(OSError, match="checkpoint.safetensors could not be written"):
        for step in run(first, file, every=1, progress=False):
            if step.step == 1:
                limit.enter_context(full_disk(file.stat().st_size // 2))
    assert [f.name for f in tmp_path.iterdir()] == [file.name]
    assert stage.read(file, tensors=False)[0] == 2
    assert [s.step for s in run(again, file, progress=False)] == [2, 3]
    assert same(held(again), held(whole))


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["checkpoint.safetensors", "gaussians.ply", "turntable.gif", "metrics.json"])
def test_the_command_line_says_what_could_not_be_written_and_goes_on_later(broken, tmp_path, capsys):
    command = ["dream", "a red mug", "--steps", "1", "--out", str(tmp_path), *TINY]
    (tmp_path / "a-red-mug-seed0" / f"{broken}.part").mkdir(parents=True)  # nothing can be written there
    assert main(command) == 1
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("dreamlab:")]
    assert len(lines) == 1 and f"{broken} could not be written" in lines[0] and "Traceback" not in error
    folder = tmp_path / "a-red-mug-seed0"
    assert not (folder / broken).exists()
    assert (folder / "checkpoint.safetensors").exists() == (broken != "checkpoint.safetensors")
    (folder / f"{broken}.part").rmdir()
    assert main(command) == 0
    assert (folder / broken).exists() and not list(folder.glob("*.part"))


def test_a_full_disk_stops_a_sweep_that_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("t.toml").write_text('runs = [{ prompt = "a red mug", seeds = [0] }]\n[settings]\nsteps = 1\nstart.points = 60\n'
                              'resolution = 32\n[methods.VDM]\n')
    Path("out.csv.part").mkdir()
    assert main(["sweep", "t.toml", "--out", "out.csv"]) == 1
    assert "out.csv could not be written" in capsys.readouterr().err and not Path("out.csv").exists()
    done, = Path("runs/sweep").glob("*/checkpoint.safetensors")  # stays until its row is written
    Path("out.csv.part").rmdir()
    assert main(["sweep", "t.toml", "--out", "out.csv"]) == 0
    assert len(sweep.read(Path("out.csv"))) == 1 and not done.exists()


# a checkpoint that is damaged


@pytest.mark.parametrize("damage", [lambda data: data[:200], lambda data: b"", lambda data: b"PK" + bytes(100)])
def test_a_damaged_checkpoint_is_named_and_kept(damage, plan, tmp_path):
    file = tmp_path / "checkpoint.safetensors"
    list(run(plan(steps=1), file, progress=False))
    file.write_bytes(broken := damage(file.read_bytes()))
    made = plan(steps=1)
    before = held(made)
    with pytest.raises(OSError, match="checkpoint .*checkpoint.safetensors cannot be read.*remove it to start"):
        list(run(made, file, progress=False))
    assert same(held(made), before) and file.read_bytes() == broken


def test_the_command_line_names_a_damaged_checkpoint(tmp_path, capsys):
    folder = tmp_path / "a-red-mug-text2image-sds-seed0"
    folder.mkdir()
    (folder / "checkpoint.safetensors").write_bytes(b"half")
    assert main(["dream", "a red mug", "--scene", "picture", "--rule", "SDS", "--steps", "1", "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "checkpoint.safetensors cannot be read" in error and "Traceback" not in error
    assert [f.name for f in folder.iterdir()] == ["checkpoint.safetensors"]


def test_files_that_are_no_checkpoint_of_this_scene_change_nothing(plan, tmp_path):
    made, file = plan(), tmp_path / "c"
    before = held(made)
    save_file({"x": torch.zeros(2)}, file)
    with pytest.raises(OSError, match="cannot be read"):
        list(run(made, file, progress=False))
    list(run(plan(steps=1, points=50), other := tmp_path / "other", progress=False))
    with pytest.raises(ValueError, match="belongs to other settings"):
        list(run(made, other, progress=False))
    list(run(plan("SDS", steps=1), sds := tmp_path / "sds", progress=False))
    with pytest.raises(OSError, match="the state has 0 tensors"):
        list(run(made, sds, progress=False))
    assert same(held(made), before)


# a step that fails


def poison(made, at):
    """Give a stage a regulariser whose gradient is NaN at one step, counted from 0, for however many pieces it is called."""
    decay, now = made.decay, []
    made.decay = lambda step, steps: now.append(step) or decay(step, steps)
    made.regularise = lambda scene, render: next(iter(scene.parameters().values())).sum() * (
        float("nan") if now[-1] == at else 0.0)


def poisoned(monkeypatch, spoil):
    """``spoil(stage)`` of every stage that is built from now on."""
    def build(*args, **kwargs):
        made = make(*args, **kwargs)
        spoil(made)
        return made

    make = pipeline.Part.build
    monkeypatch.setattr(pipeline.Part, "build", build)


@pytest.mark.parametrize("rule", ["VDM", "VSD", "SDS"])
def test_a_gradient_that_is_not_finite_leaves_scene_rule_and_checkpoint_at_the_step_before(rule, plan, tmp_path):
    """The rule has learnt from that step by then: it goes back too."""
    reached, made = plan(rule, steps=4), plan(rule, steps=4)
    file, kept = tmp_path / "c", {}
    for step in run(reached, tmp_path / "reached", progress=False):
        if step.step == 1:
            break
    kept = load_file(tmp_path / "reached")
    poison(made, 2)
    with pytest.raises(FloatingPointError, match="step 2 is not finite.*as it was before it: the regulariser's loss"):
        list(run(made, file, every=100, progress=False))
    assert same(load_file(file), kept)
    assert same({k: v for k, v in held(made).items() if not k.startswith("adam")},
                {k: v for k, v in kept.items() if not k.startswith("adam")})

    whole, again = plan(rule, steps=4), plan(rule, steps=4)
    list(run(whole, progress=False))
    assert [s.step for s in run(again, file, progress=False)] == [2, 3]  # the cause is gone
    assert same(held(again), held(whole))


def test_lower_rates_go_on_from_it_unless_a_tag_says_that_they_are_other_settings(plan, tmp_path):
    made, file = plan(), tmp_path / "c"
    poison(made, 1)
    with pytest.raises(FloatingPointError):
        list(run(made, file, tag="high", progress=False))
    lower = plan(rates={name: rate / 10 for name, rate in made.rates.items()})
    with pytest.raises(ValueError, match="other settings: remove it, or choose another folder"):
        list(run(lower, file, tag="low", progress=False))
    assert [s.step for s in run(lower, file, tag="high", progress=False)] == [1, 2, 3]


def test_the_command_line_keeps_what_was_reached_before_a_bad_gradient(tmp_path, monkeypatch, capsys):
    poisoned(monkeypatch, lambda made: poison(made, 2))
    assert main(["dream", "a red mug", "--steps", "4", "--out", str(tmp_path), *TINY]) == 2
    error = capsys.readouterr().err
    assert "step 2 is not finite" in error and "Traceback" not in error
    folder = tmp_path / "a-red-mug-seed0"
    assert {f.name for f in folder.iterdir()} == {
        "checkpoint.safetensors", "gaussians.ply", "settings.json", "start.safetensors"}
    kept = load_file(folder / "checkpoint.safetensors")
    assert torch.equal(load_ply(folder / "gaussians.ply").means, kept["scene.means"])


@pytest.mark.parametrize("dies", [False, True])
def test_no_gaussians_left_keeps_those_of_the_step_before(dies, plan, tmp_path):
    """Growth speaks after Adam's step: that is undone too. Its opposite, a bound that none falls below, lets the run end."""
    growth = Growth(since=1, until=9, every=3, gradient=9.0, reset=None, opacity=0.9 if dies else 0.005, reset_to=0.95)
    made, file = plan(growth=growth), tmp_path / "c"
    if not dies:
        assert len(list(run(made, file, progress=False))) == 4
        return
    with pytest.raises(ValueError, match="none of 60 Gaussians would be left.*lower opacity or raise wide"):
        list(run(made, file, every=100, progress=False))
    kept = load_file(file)
    assert stage.read(file, tensors=False)[0] == 2
    assert all(torch.equal(kept[f"scene.{k}"], v) for k, v in made.scene.parameters().items()) and len(made.scene) == 60
    assert kept["growth.views"].max() <= 8  # of two steps with four views, and not of three
    mended = plan(growth=Growth(since=1, until=9, every=3, gradient=9.0, reset=None))
    assert [s.step for s in run(mended, file, progress=False)] == [2, 3]


def test_a_sweep_gives_a_failed_run_a_row_with_the_reason_and_keeps_its_checkpoint(tmp_path, monkeypatch):
    poisoned(monkeypatch, lambda made: poison(made, 1) if type(made.rule).__name__ == "SDS" else None)
    monkeypatch.chdir(tmp_path)
    Path("t.toml").write_text('runs = [{ prompt = "a red mug", seeds = [0] }]\n[settings]\nsteps = 2\nstart.points = 60\n'
                              'resolution = 32\n[methods.SDS]\nrule = "SDS"\n[methods.VDM]\n')
    assert main(["sweep", "t.toml", "--out", "out.csv"]) == 1
    failed, fine = sweep.read(Path("out.csv"))
    assert "step 1 is not finite" in failed["error"] and "iou" not in failed and fine["iou"] > 0 and "error" not in fine
    assert [f.parent.name[:3] for f in Path("runs/sweep").glob("*/checkpoint.safetensors")] == ["SDS"]


def test_a_run_too_large_for_the_gpu_has_its_row_too(monkeypatch):
    def full(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.\nGPU 0 has ...")

    monkeypatch.setattr(pipeline.Part, "build", full)
    assert sweep.one(sweep.Job("SDS", METHODS["dreammapping"].ask("a red mug")))[0]["error"] == "CUDA out of memory."


def test_a_second_ctrl_c_in_a_step_loses_that_step_only(plan, tmp_path):
    """The first waits for the end of the step, the second does not: the run still goes on bit for bit."""
    whole, made, again = plan(), plan(), plan()
    list(run(whole, progress=False))
    rule, calls = made.rule, []

    def impatient(*args):
        calls.append(residual := rule(*args))
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return residual

    impatient.state_dict, impatient.load_state_dict = rule.state_dict, rule.load_state_dict
    made.rule = impatient
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins with Ctrl-C ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            list(run(made, tmp_path / "c", progress=False))
    finally:
        signal.signal(signal.SIGINT, usual)
    assert [s.step for s in run(again, tmp_path / "c", progress=False)] == [2, 3]
    assert same(held(again), held(whole))


@pytest.mark.slow
def test_a_gpu_without_room_is_one_line_and_the_run_goes_on_later(tmp_path, monkeypatch, capsys):
    command, advance, calls = ["dream", "a red mug", "--steps", "3", "--out", str(tmp_path)], stage.advance, []

    def full(*args):
        calls.append(args)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nGPU 0 has ...")
        return advance(*args)

    monkeypatch.setattr(stage, "advance", full)
    assert main(command) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("dreamlab: CUDA out of memory. Tried to allocate 2 GiB. Whatever steps were made are saved")
    assert "fewer points" in error
    assert stage.read(tmp_path / "a-red-mug-seed0/checkpoint.safetensors", tensors=False)[0] == 1
    assert main(command) == 0 and [args[2] for args in calls] == [0, 1, 1, 2]


def test_a_cpu_without_room_is_one_line_too(tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        torch.empty(10**15)  # the allocator's own words

    monkeypatch.setattr(pipeline.Part, "build", full)
    assert main(["dream", "a red mug", "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "there is no memory left" in error and "fewer points" in error


def test_a_folder_of_another_run_is_refused_before_anything_is_rehearsed(tmp_path, monkeypatch):
    first, other = (METHODS["ball"].ask("a red mug", changes=SMALL | {"steps": steps}) for steps in (1, 2))
    monkeypatch.setattr(report.Solid, "write", lambda *_: ({}, ""))
    runs.dream(first, tmp_path)
    monkeypatch.setattr(runs.memory, "announce", lambda *_, **__: pytest.fail("rehearsed"))
    with pytest.raises(ValueError, match="other settings"):
        runs.dream(other, tmp_path)
    runs.dream(first, tmp_path)  # done already: nothing to rehearse


# words and weights


@pytest.mark.parametrize("options", [[], ["--scene", "picture"]])
def test_a_prompt_of_two_hundred_words_is_refused_before_any_work(options, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stage, "advance", lambda *_: pytest.fail("a step was made"))
    assert len(LONG.split()) == 200
    assert main(["dream", LONG, "--out", str(tmp_path), *options]) == 2
    error = capsys.readouterr().err.strip()
    assert "tokens and the text encoder reads 16: shorten" in error and len(error) < 250 and not list(tmp_path.iterdir())


def test_two_hundred_words_without_a_toy_or_for_another_prior_are_refused_too(tmp_path, capsys):
    assert main(["dream", "word " * 200, "--out", str(tmp_path)]) == 2
    assert "names no kind" in (error := capsys.readouterr().err) and error.count("word") == 16
    shutil.copytree(BUNDLED["toybox"], folder := tmp_path / "prior")
    (folder / "dreamlab.json").unlink()  # then it is of no known world
    command = ["dream", "word " * 200, "--scene", "picture", "--prior", str(folder), "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert "tokens and the text encoder reads" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model.safetensors", "vae/config.json", "unet", "tokenizer",
                                  "text_encoder/model.safetensors", "model_index.json"])
def test_a_prior_that_lacks_a_file_is_named_with_it(part, tmp_path, capsys):
    folder = tmp_path / "prior"
    shutil.copytree(BUNDLED["toybox"], folder)
    (folder / part).rename(tmp_path / "away")
    out = tmp_path / "out"
    assert main(["dream", "a red mug", "--scene", "picture", "--prior", str(folder), "--out", str(out)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"the prior in {folder} is not whole: put back" in error and part.split("/")[0] in error.split("loader said")[1]
    assert not out.exists()


def test_a_damaged_prior_is_named(tmp_path):
    folder = tmp_path / "prior"
    shutil.copytree(BUNDLED["toybox"], folder)
    weights = folder / "vae/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(FileNotFoundError, match="is not whole.*vae"):
        DiffusionPrior.load(folder)


@pytest.mark.parametrize("name, file, says", [
    ("prior", "unet/diffusion_pytorch_model.safetensors", "install dreamlab again"),
    ("points", "model.safetensors", "no such file: use 'toybox', the bundled one .install dreamlab again"),
    ("points", "words.json", "it has no words.json: use 'toybox'"),
    ("judge", "judge.safetensors", "no such file: install dreamlab again, or train")])
def test_a_bundled_file_that_is_gone_is_named_before_any_work(name, file, says, tmp_path, monkeypatch, capsys):
    weights = BUNDLED["toybox"].parent
    shutil.copytree(weights / name, tmp_path / name)
    (tmp_path / name / file).unlink()
    monkeypatch.setitem(BUNDLED if name == "prior" else points.BUNDLED if name == "points" else {}, "toybox", tmp_path / name)
    if name == "judge":
        load = Judge.load
        monkeypatch.setattr(Judge, "load", lambda: load(tmp_path / "judge"))
    monkeypatch.setattr(stage, "advance", lambda *_: pytest.fail("a step was made"))
    out = tmp_path / "out"
    assert main(["dream", "a red mug", "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert str(tmp_path / name) in error and file.split("/")[-1] in error and not out.exists()
    assert re.search(says, error)


def test_weights_of_another_hash_are_refused_in_one_line(tmp_path, monkeypatch, capsys):
    file = tmp_path / "unet/diffusion_pytorch_model.fp16.safetensors"
    file.parent.mkdir()
    file.write_bytes(b"abc")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
    command = ["dream", "a corgi", "--scene", "picture", "--prior", "sd-2.1-base", "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert "do not use this copy" in (error := capsys.readouterr().err) and "no weights" not in error
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of FIPS 180-4's example
    monkeypatch.setitem(diffusion.HUB, "sd-2.1-base", diffusion.Home("someone/copy", "3 B", abc))
    assert diffusion.fetch("sd-2.1-base") == tmp_path


def test_damaged_weights_are_told_from_missing_ones(tmp_path):
    (tmp_path / "w").write_bytes(b"half")
    with pytest.raises(FileNotFoundError, match="w, it is damaged: get it again"):
        load_weights(tmp_path / "w", "get it again")


def test_pictures_from_a_bad_gradient_are_kept(tmp_path, monkeypatch, capsys):
    poisoned(monkeypatch, lambda made: poison(made, 1))
    assert main(["dream", "a red mug", "--scene", "picture", "--rule", "SDS", "--steps", "3", "--out", str(tmp_path)]) == 2
    folder = tmp_path / "a-red-mug-text2image-sds-seed0"
    assert "step 1 is not finite" in capsys.readouterr().err
    assert {f.name for f in folder.iterdir()} == {
        "checkpoint.safetensors", "picture.png", "progress.png", "settings.json", "start.safetensors"}


# outputs that are closed, strays, names


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no such shell")
@pytest.mark.parametrize("outputs", ["2>/dev/null | head -1", ">&- 2>&-", "2>&- >/dev/full"])
def test_nobody_has_to_listen(outputs, tmp_path):
    """Neither a reader that goes away nor a closed or full output stops a run or fails it."""
    if "/dev/full" in outputs and not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    command = shlex.join([sys.executable, "-m", "dreamlab.cli", "dream", "a red mug", "--steps", "1", "--out", "out", *TINY])
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(["bash", "-c", f"{command} {outputs}; exit ${{PIPESTATUS[0]}}"], cwd=tmp_path, env=environment,
                          capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    assert {f.name for f in Path(tmp_path, "out/a-red-mug-seed0").iterdir()} == {
        "checkpoint.safetensors", "contact_sheet.png", "gaussians.ply", "metrics.json", "scene.safetensors", "settings.json",
        "start.safetensors", "turntable.gif", "viewer.html"}


def test_a_place_is_tried_before_anything_is_loaded(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(DiffusionPrior, "load", lambda *_: pytest.fail("loaded"))
    assert main(["dream", "a red mug", "--out", str(tmp_path / "file" / "out")]) == 1
    assert "nothing can be written to" in (error := capsys.readouterr().err) and "choose another place" in error


def test_strays_of_a_killed_run_go_and_all_files_have_one_mode(tmp_path, monkeypatch):
    monkeypatch.setattr(report.Solid, "write", lambda *_: ({}, ""))
    monkeypatch.chdir(tmp_path)
    asked = METHODS["ball"].ask("a red mug", changes=SMALL | {"steps": 1})
    folder = runs.dream(asked, tmp_path)
    assert len({f.stat().st_mode for f in folder.iterdir()}) == 1 and len(list(folder.iterdir())) == 5
    for _ in range(2):  # also where nothing is left to run
        (folder / "scene.safetensors.part").write_text("half")
        (folder / "mine.txt").write_text("")
        runs.dream(asked, tmp_path)
        assert not list(folder.glob("*.part")) and (folder / "mine.txt").exists()
    Path("t.toml").write_text('runs = [{ prompt = "a red mug", seeds = [0] }]\n'
                              "[methods.VDM]\nsteps = 0\nstart.points = 60\nresolution = 32\n")
    job, = sweep.jobs(tomllib.loads(Path("t.toml").read_text()))
    kept = sweep.kept(Path("runs/sweep"), *job.key, job.tag)
    kept.mkdir(parents=True)
    for stray in (kept / "views.webp.part", Path("out.csv.part"), Path("another.part")):
        stray.write_text("half")
    sweep.sweep(Path("t.toml"), Path("out.csv"))
    assert [f.name for f in Path().rglob("*.part")] == ["another.part"]


def test_no_two_prompts_have_one_folder_and_none_is_too_long():
    ask = METHODS["field-to-gaussians"].ask
    rules = {f"{part}.rule": "Consistent3D" for part in ("field", "gaussians")}
    prompts = ["赤いマグカップ", "赤い マグカップ", "красная кружка", "кружка красная", "é", "e", "E", "🫖 a", "🫖 b",
               50 * "杯", 51 * "杯", "a " * 200, "a " * 201, "a-b", "a b", "a.b", "a/b", "../a", "a\\b", ".a"]
    names = [runs.folder_name(ask(prompt, seed=-10**11, changes=rules)) for prompt in prompts]
    assert len(set(names)) == len(prompts) and max(len(name.encode()) for name in names) <= 255
    assert all(name == Path(name).name and name.isprintable() and not name.startswith((".", "-")) for name in names), names
    kept = [sweep.kept(Path(), name, prompt, -10**11, 12 * "0").name for name in ("a", 80 * "杯") for prompt in prompts]
    assert max(len(name.encode()) for name in kept) <= 255
