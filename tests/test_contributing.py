"""The reader's test, and what a contributor touches: a rule, scene or method is its file and a list, a baseline one entry.

Each is added to a copy of the package and run from the shell, without any other change.
"""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_imports import MODULES, imports, ours, tree

from dreamlab.settings import owner

ROOT = Path(__file__).parents[1]
PICTURES = ["--scene", "picture", "--steps", "1", "--set", "start.pictures=1"]


@pytest.fixture
def copy(tmp_path):
    """A copy of the package, its weights linked; and a way to run its command line."""
    package = tmp_path / "dreamlab"
    shutil.copytree(ROOT / "dreamlab", package, ignore=shutil.ignore_patterns("weights", "__pycache__", "data"))
    (package / "toybox/weights").symlink_to(ROOT / "dreamlab/toybox/weights")

    def shell(*arguments):
        environment = os.environ | {"PYTHONPATH": str(tmp_path), "HF_HUB_OFFLINE": "1"}
        return subprocess.run([sys.executable, "-m", "dreamlab.cli", *arguments], cwd=tmp_path, env=environment, text=True,
                              capture_output=True)

    return package, shell


def put_in(file: Path, *changes: tuple[str, str]) -> None:
    text = file.read_text()
    for before, after in changes:
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    file.write_text(text)


def made(tmp_path, run) -> Path:
    assert run.returncode == 0, run.stderr[-2000:]
    folder, = tmp_path.glob("runs/*")
    return folder


@pytest.mark.slow
def test_a_new_rule_is_two_files(copy, tmp_path):
    package, shell = copy
    shutil.copy(package / "rules/sds.py", package / "rules/half.py")
    put_in(package / "rules/half.py", ("class SDS(Rule):", "class Half(Rule):"),
           ("import sigma2", "import sigma2\nfrom dreamlab.checks import Positive"),
           ("    weight: Callable", "    share: Positive = 0.5\n    weight: Callable"),
           ("(prior, t, direction,", "(prior, t, self.share * direction,"))
    put_in(package / "rules/__init__.py", ("RULES = [", 'from dreamlab.rules.half import Half\n\nRULES = ["Half", '))
    options = ["--rule", "Half", "--guidance", "4", "--set", "rule.share=0.25"]
    folder = made(tmp_path, shell("dream", "a red mug", *options, *PICTURES))
    assert folder.name == "a-red-mug-text2image-half-seed0" and '"share": 0.25' in (folder / "settings.json").read_text()
    bad = shell("dream", "a red mug", "--rule", "Half", "--set", "rule.share=-1", *PICTURES)
    assert bad.returncode == 2 and "rule.share must be a number above 0, got -1" in bad.stderr


@pytest.mark.slow
def test_a_new_scene_is_two_files(copy, tmp_path):
    package, shell = copy
    shutil.copy(ROOT / "tests/voxels.py", package / "scenes/voxels.py")
    put_in(package / "scenes/__init__.py", ("SCENES = {", "from dreamlab.scenes.voxels import Voxels, voxels\n\nSCENES = {"),
           ("Tets, Textured)}", "Tets, Textured, Voxels)}"),
           ("texture, given)}", "texture, given, voxels)}"))
    options = ["--steps", "1", "--set", "resolution=32", "--set", "start.side=12"]
    folder = made(tmp_path, shell("dream", "a red mug", "--scene", "voxels", *options))
    assert {"turntable.gif", "viewer.html", "contact_sheet.png", "metrics.json"} <= {f.name for f in folder.iterdir()}
    assert '"side": 12' in (folder / "settings.json").read_text()
    again = shell("dream", "a red mug", "--scene", "voxels", *options)  # done already: the file is read back
    assert again.returncode == 0 and "distilling" not in again.stderr


@pytest.mark.slow
def test_a_new_method_is_two_files(copy, tmp_path):
    package, shell = copy
    (package / "methods/twice.py").write_text('''"""Twice: pictures, and the same gone on with by another rule."""
from functools import partial

from dreamlab.methods.text2image import TOY
from dreamlab.pipeline import Method
from dreamlab.scenes.base import again

PARTS = {"first": TOY, "more": TOY.set({"start": partial(again, of="first"), "rates": {"latents": 0.05}, "rule": "ISM"})}
TWICE = Method("twice", "pictures, twice", PARTS, PARTS)
''')
    put_in(package / "methods/__init__.py", ("METHODS: dict", "from dreamlab.methods.twice import TWICE\n\nMETHODS: dict"),
           ("    DREAMMAPPING,", "    TWICE, DREAMMAPPING,"))
    assert "first > more" in shell("methods").stdout
    sets = ["first.start.pictures=1", "first.steps=1", "more.steps=1"]
    folder = made(tmp_path, shell("dream", "a red mug", "--method", "twice", *(x for s in sets for x in ("--set", s))))
    assert (folder / "first/picture.png").exists() and (folder / "more/metrics.json").exists()


@pytest.mark.slow
def test_a_new_baseline_is_one_entry(copy, tmp_path):
    package, shell = copy
    put_in(package / "methods/baselines.py", ("BASELINES = [\n", '''BASELINES = [
    baseline("csd", "CSD on points", PAPER.set(rule="CSD")),\n'''))
    assert "CSD on points" in shell("methods").stdout
    (tmp_path / "t.toml").write_text('runs = [{ prompt = "a red mug", seeds = [0] }]\n[methods.mine]\nbase = "csd"\nsteps = 1\n'
                                     "start.points = 60\nresolution = 32\n")
    run = shell("sweep", "t.toml", "--out", "out.csv")
    assert run.returncode == 0 and "mine,a red mug,0," in (tmp_path / "out.csv").read_text(), run.stderr[-2000:]


# From the command line to VDM's equation; each names the next, or is named by one before it
READ = ["cli", "runs", "pipeline", "methods.dreammapping", "stage", "rules.vdm"]


def test_a_reader_opens_six_files_from_the_command_line_to_the_equation():
    named = {"cli"}
    for module in READ:
        assert module in named, f"nothing read so far leads to {module}"
        named |= ours(imports(module, tree(module)))
        named |= {"methods.dreammapping"} if module == "cli" and '"dreammapping"' in MODULES[module].read_text() else set()
    from dreamlab.methods.dreammapping import PAPER

    assert len(READ) <= 6 and owner(PAPER.rule).__name__ == "VDM" and "lambda_t M(eps_y)" in MODULES["rules.vdm"].read_text()
    lines = sum(len(MODULES[module].read_text().splitlines()) for module in READ)
    print(f"\n{len(READ)} files, {lines} lines: {', '.join(READ)}")
