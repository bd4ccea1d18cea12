"""Methods of parts: in order, in one folder, each gone on with wherever it was stopped, and none run twice."""
import gc
import shutil
import weakref
from functools import partial
from pathlib import Path

import pytest
import torch

from dreamlab import pipeline, runs, scenes
from dreamlab.cli import main
from dreamlab.methods import METHODS
from dreamlab.pipeline import Asked, Method, work
from dreamlab.priors.diffusion import BUNDLED, DiffusionPrior
from dreamlab.report import Solid
from dreamlab.scenes.base import again
from dreamlab.scenes.nerf import blob

TWO = METHODS["field-to-gaussians"]
SMALL = {f"field.{k}": v for k, v in {"steps": 4, "views": 1, "resolution": 16, "start.samples": 8, "rule": "SDS"}.items()} | {
    f"gaussians.{k}": v for k, v in {"steps": 4, "views": 2, "resolution": 16, "start.points": 60}.items()}
FILES = ("start.safetensors", "checkpoint.safetensors", "scene.safetensors")


@pytest.fixture(scope="module")
def prior():
    return DiffusionPrior.load()


def ask(changes=None, seed=0) -> Asked:
    return TWO.ask("a red mug", seed=seed, changes=SMALL | (changes or {}))


def go(asked, folder, prior, **options) -> list[tuple[str, int]]:
    """Run what is left; which steps of which parts were made."""
    return [(item.name, step.step) for item in work(asked, folder, prior=prior, **options)
            for step in item.run(every=2, progress=False)]


def held(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.fixture(scope="module")
def whole(prior, tmp_path_factory):
    """An undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    assert go(ask(), folder, prior) == [(name, i) for name in ("field", "gaussians") for i in range(4)]
    return folder


def test_each_part_has_its_start_checkpoint_and_scene(whole):
    assert held(whole).keys() == {f"{part}/{file}" for part in ("field", "gaussians") for file in FILES}
    assert type(scenes.load(whole / "field/scene.safetensors")).__name__ == "NeRF"
    assert len(scenes.load(whole / "gaussians/scene.safetensors")) == 60


@pytest.mark.parametrize("part, step", [(part, step) for part in ("field", "gaussians") for step in range(4)])
def test_a_run_stopped_anywhere_goes_on_bit_for_bit(part, step, whole, prior, tmp_path):
    """As a kill does: nothing is saved at the stop. Checkpoints come every two steps."""
    for item in work(ask(), tmp_path, prior=prior):
        steps = item.run(every=2, progress=False)
        for made in steps:
            if (item.name, made.step) == (part, step):
                break
        if item.name == part:
            break
    del steps, item
    done = set(go(ask(), tmp_path, prior))
    assert ("field", 0) not in done if part == "gaussians" else ("gaussians", 0) in done
    assert held(tmp_path) == held(whole)


@pytest.mark.parametrize("owner, name, call", [
    (scenes.NeRF, "save", 2),  # after the last step of a part, before its scene (the first call is its start's)
    (pipeline.Part, "build", 2),  # while the next part is being built
    (scenes.Gaussians, "save", 1), (scenes.Gaussians, "save", 2)])  # before its start is kept, and its scene
def test_a_hand_over_that_was_stopped_goes_on_bit_for_bit(owner, name, call, whole, prior, tmp_path, monkeypatch):
    real, calls = getattr(owner, name), []

    def stop(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, stop)
        with pytest.raises(KeyboardInterrupt):
            go(ask(), tmp_path, prior)
    assert held(tmp_path).keys() < held(whole).keys()
    go(ask(), tmp_path, prior)
    assert held(tmp_path) == held(whole)


FLOW = {f"{part}.{k}": v for part in METHODS["dreamflow"].toy for k, v in {
    "rule.grid.points": 3, "views": 1, "resolution": 16}.items()} | {"nerf.start.samples": 16, "geometry.start.cells": 12}


@pytest.mark.slow
def test_every_part_of_dreamflow_goes_on_where_it_was_stopped_and_may_lose_its_files(prior, tmp_path):
    asked = METHODS["dreamflow"].ask("a red mug", changes=FLOW)
    whole, folder = tmp_path / "whole", tmp_path / "stopped"
    assert go(asked, whole, prior) == [(name, i) for name in asked.parts for i in range(3)]
    for name in asked.parts:
        for item in work(asked, folder, prior=prior, until=name):  # those before it are done
            assert item.name == name and next(steps := item.run(every=2, progress=False)).step == 0
            break
        del steps, item  # as a kill does
        assert {part for part, _ in go(asked, folder, prior, until=name)} == {name}
    assert held(folder) == held(whole)
    for name in asked.parts:  # by hand
        (folder / name / "scene.safetensors").unlink()  # the checkpoint has what was learnt
        assert go(asked, folder, prior) == [] and held(folder) == held(whole)
        for file in FILES:
            (folder / name / file).unlink()
        assert go(asked, folder, prior) == [(name, i) for i in range(3)] and held(folder) == held(whole)


def test_a_part_that_is_done_is_not_run_again(whole, prior):
    before = held(whole)
    assert go(ask(), whole, prior) == [] and held(whole) == before


def test_changing_a_part_keeps_those_before_it_and_loses_nothing(whole, prior, tmp_path):
    go(ask(), tmp_path, prior)
    first = held(tmp_path)
    changed = ask({"gaussians.rule.guidance": 5})
    assert {name for name, _ in go(changed, tmp_path, prior)} == {"gaussians"}
    aside, = tmp_path.glob("gaussians-*")
    assert held(aside) == held(whole / "gaussians") and held(tmp_path / "field") == held(whole / "field")
    assert held(tmp_path / "gaussians") != held(whole / "gaussians")
    with pytest.raises(ValueError, match="field belongs to other settings: remove it, or choose another folder"):
        go(ask({"field.rule.guidance": 5}), tmp_path, prior)
    go(ask(), tmp_path, prior)  # back again
    assert {k: v for k, v in held(tmp_path).items() if "-" not in k} == first


def test_tags_say_what_differs_and_what_came_before():
    own = ask()
    assert own.tag("field") == ask({"gaussians.steps": 9}).tag("field")
    assert own.tag("gaussians") != ask({"gaussians.steps": 9}).tag("gaussians")
    assert own.tag("gaussians") != ask({"field.steps": 9}).tag("gaussians")
    assert own.tag("field") != ask(seed=1).tag("field")
    same = ask({"field.rule": "SDS", "gaussians.rule.guidance": 3, "gaussians.timesteps.until": 0.8})  # said, and its own value
    assert [same.tag(name) for name in same.parts] == [own.tag(name) for name in own.parts]


def test_a_new_field_with_a_default_leaves_stored_results_valid(monkeypatch):
    """A tag holds what differs from the method's own values: what is the same everywhere is in none."""
    before = ask().tag("gaussians")
    describe = pipeline.describe
    monkeypatch.setattr(pipeline, "describe", lambda thing: describe(thing) | {"new": 3})
    assert ask().tag("gaussians") == before


def test_until_names_the_last_part(prior, tmp_path):
    assert {name for name, _ in go(ask(), tmp_path, prior, until="field")} == {"field"}
    assert not (tmp_path / "gaussians").exists()
    with pytest.raises(ValueError, match="until must name a part of field-to-gaussians, one of field, gaussians, got 'mesh'"):
        go(ask(), tmp_path, prior, until="mesh")
    assert {name for name, _ in go(ask(), tmp_path, prior)} == {"gaussians"}


def test_without_a_folder_it_is_the_same_run(whole, prior):
    made = {item.name: item.stage.scene for item in work(ask(), prior=prior) if list(item.run(progress=False))}
    for name, scene in made.items():
        kept = scenes.load(whole / name / "scene.safetensors").state_dict()
        assert all(torch.equal(leaf, kept[k]) for k, leaf in scene.state_dict().items())


def test_a_part_that_goes_on_with_a_scene_leaves_the_earlier_one_alone(prior):
    """In memory too: ``again`` is a copy."""
    part = TWO.toy["field"].set({"steps": 2, "views": 1, "resolution": 16, "start.samples": 8})
    twice = {"field": part, "more": part.set(start=partial(again, of="field"))}
    made = {}
    for item in work(Method("twice", "", twice, twice).ask("a red mug"), prior=prior):
        if made:
            start = item.stage.scene.state_dict()
            assert all(torch.equal(start[k], v) for k, v in made["field"].items())
        list(item.run(progress=False))
        made[item.name] = {k: v.clone() for k, v in item.stage.scene.state_dict().items()}
        kept = made["field"]
    assert any(not torch.equal(made["more"][k], v) for k, v in kept.items())


def test_resuming_does_not_start_the_points_prior_again(prior, tmp_path, monkeypatch):
    asked = METHODS["dreammapping"].ask("a red mug", changes={"steps": 4, "start.points": 60, "resolution": 16})
    for item in work(asked, tmp_path, prior=prior):
        for step in item.run(every=1, progress=False):
            if step.step == 1:
                break
        break
    monkeypatch.setattr("dreamlab.scenes.gaussians.load_points", lambda *_: pytest.fail("asked again"))
    assert go(asked, tmp_path, prior) == [("shape", 2), ("shape", 3)]


def test_one_prior_is_held_at_a_time(monkeypatch, tmp_path):
    """Two parts with priors of their own: the first is gone when the second is loaded; parts that share one share it."""
    alive, load = [], DiffusionPrior.load

    def loaded(*where):
        gc.collect()
        alive.append(sum(ref() is not None for ref in refs))
        made = load("toybox")
        refs.append(weakref.ref(made))
        return made

    refs = []
    monkeypatch.setattr(DiffusionPrior, "load", loaded)
    go(ask({"field.steps": 1, "gaussians.steps": 1}), tmp_path / "a", None)
    assert alive == [0]
    copy = tmp_path / "copy"
    shutil.copytree(BUNDLED["toybox"], copy)
    alive.clear(), refs.clear()
    go(ask({"field.steps": 1, "gaussians.steps": 1, "gaussians.prior": str(copy)}), tmp_path / "b", None)
    assert alive == [0, 0]


@pytest.mark.slow
def test_the_command_line_runs_parts_and_names_them(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Solid, "write", lambda self, folder, last: (self.keep(folder), ""))
    options = [x for k, v in SMALL.items() for x in ("--set", f"{k}={v}")]
    command = ["dream", "a red mug", "--method", "field-to-gaussians", "--out", str(tmp_path), *options]
    assert main([*command, "--until", "field"]) == 0
    said = capsys.readouterr()
    assert "field, part 1 of 2" in said.err and "part 2" not in said.err
    assert main(command) == 0
    said = capsys.readouterr()
    assert "gaussians, part 2 of 2" in said.err and "part 1" not in said.err
    folder = tmp_path / "a-red-mug-field-to-gaussians-sds-seed0"
    assert (folder / "gaussians/gaussians.ply").exists() and str(folder / "field/settings.json") in said.out
    assert main(["dream", "a red mug", "--method", "field-to-gaussians", "--steps", "3", "--out", str(tmp_path)]) == 2
    assert "'steps' names no setting of a part of field-to-gaussians, which are field, gaussians" in capsys.readouterr().err


def test_a_part_says_what_it_will_run(prior, tmp_path, capsys, monkeypatch):
    """In a line before its first step, whatever its timesteps: one t or a range, at both ends; quiet runs say nothing."""
    flow, pictures = METHODS["dreamflow"], METHODS["text2image"].toy["pictures"]
    start = partial(blob, levels=2, finest=32, hidden=8, samples=8)
    parts = {name: flow.toy[name].set(start=start) for name in ("nerf", "texture")}
    flat = {"pictures": pictures.set({"rule": "SDS", "timesteps": "DreamTime", "steps": 10})}
    lines = [item.schedule() for ask in (
        Method("two", "", parts, parts), Method("flat", "", flat, flat), METHODS["ball"]) for item in work(
            ask.ask("a red mug", changes={"start.points": 60} if ask.name == "ball" else None), prior=prior)]
    assert lines == [
        "nerf, part 1 of 2: t 979 to 106 in 120 steps, colours of 4 views of 64 px, under toybox",
        "texture, part 2 of 2: t 499 to 103 in 100 steps, colours of 4 views of 64 px, under toybox",
        "distilling: t 980 to 429 in 10 steps, latents of 4 pictures, under toybox",
        "distilling: t [20, 950] to [20, 300] in 200 steps, colours of 4 views of 64 px, under toybox"]
    monkeypatch.setattr(Solid, "write", lambda self, folder, last: (self.keep(folder), ""))
    runs.dream(ask(), tmp_path / "loud", prior=prior)
    said = [line for line in capsys.readouterr().out.splitlines() if " t [" in line]
    assert [line.split(":")[0] for line in said] == ["field, part 1 of 2", "gaussians, part 2 of 2"]
    runs.measure(ask(), tmp_path / "quiet")
    assert " steps, " not in capsys.readouterr().out


def test_methods_that_cannot_be_are_named():
    part = METHODS["ball"].toy["shape"]
    for wrong, says in (
            (lambda: Method("A B", "", {"a": part}, {"a": part}), "a method's name is small letters.*'A B'"),
            (lambda: Method("a", "", {}, {}), "needs the same parts in both tiers"),
            (lambda: Method("a", "", {"a": part}, {"b": part}), "needs the same parts in both tiers"),
            (lambda: Method("a", "", *[{"a": part.set({"start": "again", "start.of": "b"}), "b": part}] * 2),
             "a.start.of must name a part that stands before it"),
            (lambda: METHODS["ball"].ask("a red mug", "gpu"), 'tier must be "toy" or "paper"'),
            (lambda: TWO.ask("a red mug", changes={"steps": 3}), "names no setting of a part"),
            (lambda: ask({"gaussians.start.of": "gaussians"}), "must name a part that stands before")):
        with pytest.raises(ValueError, match=says):
            wrong()


def test_the_report_of_every_part_is_written_by_the_owner_of_the_run(tmp_path, prior, monkeypatch):
    monkeypatch.setattr(Solid, "write", lambda self, folder, last: (self.keep(folder), ""))
    folder = runs.dream(ask(), tmp_path, prior=prior)
    assert {f.name for f in (folder / "field").iterdir()} == {*FILES, "settings.json"}
    assert {f.name for f in (folder / "gaussians").iterdir()} == {*FILES, "settings.json", "gaussians.ply"}
