"""Imports point one way, heavy packages stay where they belong, and ``import dreamlab`` is light."""
import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dreamlab"

# A module may import from its own row and from the rows above it. The longest matching prefix places a module.
ROWS = [
    ["types", "files", "checks", "mesh", "meshfile", "atlas", "threads"],
    ["noise", "schedules", "cameras", "prompts", "learner"],
    ["toybox.objects", "toybox.fakes", "toybox.render", "toybox.captions", "toybox.dataset"],  # the ground truth of all below
    ["priors", "render", "losses"],
    ["costvolume", "one2345", "pictures", "viewpoints", "rules"],
    ["scenes"],
    ["export", "assets"],  # files in, files out
    ["stage", "memory"],
    ["settings"],
    ["pipeline"],
    ["methods"],
    ["toybox.judge", "toybox.training", "metrics", "widgets", "course", "report", "runs", "sweep", "cli"],
]
ROW = {name: i for i, names in enumerate(ROWS) for name in names}
CUDA_ONLY = {"gsplat", "nerfacc", "nvdiffrast"}
HUB = {"diffusers", "transformers", "peft"}

MODULES = {".".join(f.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip("."): f
           for f in sorted(PACKAGE.rglob("*.py"))}


def row(module: str) -> int:
    """Which row a module (name without the leading "dreamlab.") stands in."""
    parts = module.split(".")
    for n in range(len(parts), 0, -1):
        if (name := ".".join(parts[:n])) in ROW:
            return ROW[name]
    raise AssertionError(f"dreamlab.{module} stands in no row: place it in ROWS of {Path(__file__).name}")


def imports(module: str, tree: ast.AST) -> set[str]:
    """Full names of what a syntax tree imports; relative imports are resolved."""
    package = ["dreamlab", *module.split(".")]
    if MODULES[module].name != "__init__.py":
        package.pop()
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def ours(names: set[str]) -> set[str]:
    """The dreamlab modules among imported names, without the leading "dreamlab."."""
    found = set()
    for name in names:
        if name.split(".")[0] == "dreamlab":
            parts = name.split(".")[1:]
            while parts and ".".join(parts) not in MODULES:  # the last part may be a function or a class
                parts.pop()
            found.add(".".join(parts))
    return found - {""}


def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


@pytest.mark.parametrize("module", [m for m in MODULES if m and MODULES[m].read_text().strip()])
def test_imports_point_one_way(module):
    used = imports(module, tree(module))
    late = {m for m in ours(used) if row(m) > row(module)}
    assert not late, f"dreamlab.{module} imports {sorted(late)}, which stand below it"

    top, roots = module.split(".")[0], {name.split(".")[0] for name in used}
    if top in ("rules", "scenes", "render", "metrics"):
        assert not roots & HUB, f"dreamlab.{module} imports {sorted(roots & HUB)}: only priors and toybox training may"
    if top == "render":
        assert not {m for m in ours(used) if m.split(".")[0] in ("scenes", "priors", "toybox")}
    if top in ("toybox", "metrics", "course"):
        assert not {m for m in ours(used) if m.split(".")[0] in ("pipeline", "methods", "runs", "report")}
    assert not roots & CUDA_ONLY or top == "render", f"dreamlab.{module} imports {sorted(roots & CUDA_ONLY)}"


def test_the_rows_are_printed():
    """``pytest tests/test_imports.py -s`` shows the house: who may import whom."""
    print()
    for i in range(len(ROWS)):
        print(f"{i + 1:3d}  {', '.join(m for m in MODULES if MODULES[m].read_text().strip() and m and row(m) == i)}")


def test_every_import_of_ours_is_there():
    for module in MODULES:
        for name in imports(module, tree(module)):
            if name.startswith("dreamlab."):
                home, _, last = name.removeprefix("dreamlab.").rpartition(".")
                assert home in MODULES or f"{home}.{last}".strip(".") in MODULES, f"dreamlab.{module} imports {name}"


def classes(*packages: str) -> dict[str, str]:
    """The classes of scenes and priors, and the files they stand in."""
    return {node.name: module for module in MODULES if module.split(".")[0] in packages
            for node in tree(module).body if isinstance(node, ast.ClassDef)}


def test_nobody_asks_what_class_a_scene_or_a_prior_is():
    """No isinstance outside the class's own file, and no dictionary keyed by such a class."""
    known = {name: home for name, home in classes("scenes", "priors").items() if name not in ("Card", "Begin", "Growth")}
    assert {"Gaussians", "NeRF", "Picture", "Scene", "DiffusionPrior", "GaussianMixturePrior"} <= known.keys()
    for module in MODULES:
        for node in ast.walk(tree(module)):
            names = []
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("isinstance", "issubclass"):
                names = [n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)]
            elif isinstance(node, ast.Dict):
                names = [key.id for key in node.keys if isinstance(key, ast.Name)]
            found = [name for name in names if known.get(name, module) != module]
            assert not found, f"dreamlab.{module}, line {node.lineno}, asks for {found}"


def test_no_circle_of_imports():
    """Imports inside functions count too; the file of a package is the module of its name."""
    try:
        TopologicalSorter({module: ours(imports(module, tree(module))) for module in MODULES}).prepare()
    except CycleError as error:
        pytest.fail("a circle: " + " imports ".join(reversed(error.args[1])))


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("render.")])
def test_cuda_packages_are_imported_inside_functions(module):
    outer = [n for n in tree(module).body if isinstance(n, ast.Import | ast.ImportFrom)]
    roots = {name.split(".")[0] for name in imports(module, ast.Module(outer, []))}
    assert not roots & CUDA_ONLY, f"dreamlab.{module} imports {sorted(roots & CUDA_ONLY)} at its top"


def loaded_by(code: str) -> set[str]:
    out = subprocess.run([sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
                         check=True, capture_output=True, text=True, cwd=ROOT).stdout
    return {name.split(".")[0] for name in out.split()}


def test_import_dreamlab_is_light():
    assert not loaded_by("import dreamlab") & (CUDA_ONLY | HUB | {"torch", "matplotlib", "IPython"})


@pytest.mark.slow
def test_public_names_exist_and_load_no_cuda_package():
    assert not loaded_by("import dreamlab\nfor name in dreamlab.__all__: getattr(dreamlab, name)") & CUDA_ONLY


def test_unknown_name_lists_the_known_ones():
    import dreamlab

    with pytest.raises(AttributeError, match="Gaussians"):
        dreamlab.NoSuchThing  # noqa: B018
