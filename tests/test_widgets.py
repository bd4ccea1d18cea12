"""Widgets are driven from code, and their static twins say the same."""
import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from dreamlab.pipelines.dreammapping import Settings
from dreamlab.widgets.schedule_explorer import RECIPES, describe, figure, png, schedule_explorer

TOYBOX = "DreamMapping on the toybox"


def test_recipes_follow_the_settings():
    toy = Settings("").toy()
    assert RECIPES[TOYBOX].steps == toy.steps
    assert RECIPES[TOYBOX].timesteps.t_max(0, toy.steps) == toy.t_max[0]
    assert RECIPES[TOYBOX].timesteps.t_max(toy.steps - 1, toy.steps) == toy.t_max[1]
    paper = describe("DreamMapping (VDM with DCA)", 1500)
    assert "t from 20 to 500" in paper and "lambda 0.02 to 1.00" in paper
    assert "t from 20 to 980" in describe("DreamFusion (SDS)", 14_999)


def test_the_figure_draws_the_recipe():
    when, level, weight, rate = figure(TOYBOX, 10).axes
    lam = level.get_lines()[2].get_ydata()
    assert lam[301] == 1 and lam[300] < 0.5  # DCA's jump
    assert [line.get_xdata()[0] for ax in (when, rate) for line in ax.get_lines()[-1:]] == [10, 10]
    assert weight.get_yscale() == "log"


def test_controls_change_the_picture():
    widget = schedule_explorer()
    names, steps, line, picture = widget.children
    first = picture.value
    steps.value = half = steps.max // 2
    assert line.value == describe(TOYBOX, half) == picture.tooltip and picture.value != first
    shown, twin = (np.asarray(Image.open(io.BytesIO(b))) for b in (picture.value, png(TOYBOX, half)))
    assert np.array_equal(shown, twin)
    names.value = "DreamFusion (SDS)"
    assert steps.value == 0 and steps.max == RECIPES["DreamFusion (SDS)"].steps - 1
    assert line.value == describe("DreamFusion (SDS)", 0)
    steps.value = 14_999
    names.value = TOYBOX  # its last step is smaller
    assert line.value == describe(TOYBOX, 0)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="no recipe 'x'; there is: DreamFusion"):
        figure("x", 0)
    with pytest.raises(ValueError, match=r"step must lie in \[0, 14999\], got -1"):
        describe("DreamFusion (SDS)", -1)


def test_ipywidgets_are_loaded_only_when_asked_for():
    code = "import dreamlab.widgets.schedule_explorer, sys; assert 'ipywidgets' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
