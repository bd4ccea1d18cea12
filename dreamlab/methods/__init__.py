"""Methods by name. To add one: its file, and its name here."""
from dreamlab.checks import checked, shown
from dreamlab.methods.baselines import BASELINES, WITH_MESH
from dreamlab.methods.dreamflow import DREAMFLOW, FROM_POINTS
from dreamlab.methods.dreammapping import BALL, DREAMMAPPING, FIELD, FIELD_TO_GAUSSIANS
from dreamlab.methods.geodream import GEODREAM, MAGIC123, ONE_2_3_45
from dreamlab.methods.text2image import PIXELS, TEXT2IMAGE
from dreamlab.pipeline import Method

METHODS: dict[str, Method] = {method.name: method for method in (
    DREAMMAPPING, BALL, FIELD, FIELD_TO_GAUSSIANS, DREAMFLOW, FROM_POINTS, GEODREAM, MAGIC123, ONE_2_3_45, TEXT2IMAGE, PIXELS,
    *BASELINES, *WITH_MESH)}

__all__ = ["METHODS", "Method", "method"]


@checked
def method(name: str) -> Method:
    """The method of that name. ValueError that lists them."""
    if name not in METHODS:
        raise ValueError(f"there is no method {shown(name)}; there is: {', '.join(METHODS)}: choose one")
    return METHODS[name]
