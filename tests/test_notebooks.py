"""The notebooks are fit to be compared: nbval passes what has no stored output, so this guards against empty checks."""
import ast
import re
import tomllib
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MIN_COMPARED = 6  # cells per notebook whose printed output nbval compares
UNCHECKED = {"nbval-ignore-output", "nbval-skip"}
NBVAL_TAGS = UNCHECKED | {"nbval-check-output", "nbval-raises-exception", "raises-exception"}

notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)


def cells(path: Path, kind: str) -> list:
    return [c for c in nbformat.read(path, 4).cells if c.cell_type == kind]


def tags(cell) -> set[str]:
    return set(cell.metadata.get("tags", []))


def prose(cell) -> str:
    """Markdown without its code blocks."""
    return re.sub(r"```.*?```", "", cell.source, flags=re.S)


def python(cell) -> str:
    """The cell's source with line magics and shell lines blanked, so that it parses."""
    return re.sub(r"^(\s*)[%!].*$", r"\1pass", cell.source, flags=re.M)


def prints_at_top_level(cell) -> bool:
    """Whether a bare ``print(...)`` stands in the cell outside of functions, loops and branches."""
    return any(isinstance(n, ast.Expr) and isinstance(n.value, ast.Call) and getattr(n.value.func, "id", "") == "print"
               for n in ast.parse(python(cell)).body)


def text_outputs(cell) -> list[str]:
    """What nbval compares of a cell: printed text, and reprs that say more than that there is a figure."""
    texts = [o.text for o in cell.outputs if o.output_type == "stream"]
    texts += [o.data["text/plain"] for o in cell.outputs if "text/plain" in o.get("data", {})]
    return [t for t in texts if t.strip() and not t.startswith("<Figure")]


def has_picture(cell) -> bool:
    return any(mime.startswith("image/") for o in cell.outputs for mime in o.get("data", {}))


def test_there_are_notebooks():
    assert NOTEBOOKS


@notebooks
def test_headings(path):
    levels = [len(m) for c in cells(path, "markdown") for m in re.findall(r"^(#+) ", prose(c), flags=re.M)]
    assert levels.count(1) == 1 and levels[0] == 1, "one H1, and it comes first"
    assert all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False)), f"a heading level is skipped: {levels}"


@notebooks
def test_every_code_cell_has_been_run_without_error(path):
    counts = [c.execution_count for c in cells(path, "code")]
    assert counts == list(range(1, len(counts) + 1)), "run the whole notebook from a fresh kernel: make notebooks"
    assert not [o.ename for c in cells(path, "code") for o in c.outputs
                if o.output_type == "error" and "raises-exception" not in tags(c)]


@notebooks
def test_enough_cells_are_compared(path):
    checked = [c for c in cells(path, "code") if not tags(c) & UNCHECKED]
    silent = [c.source for c in checked if prints_at_top_level(c) and not text_outputs(c)]
    assert not silent, f"prints, but has no stored output:\n{silent[0]}"
    assert sum(bool(text_outputs(c)) for c in checked) >= MIN_COMPARED


@notebooks
def test_no_trailing_semicolons(path):
    ends = [c.source.rstrip().splitlines()[-1] for c in cells(path, "code") if c.source.strip()]
    assert not [line for line in ends if line.rstrip().endswith(";")], "nbval does not hide output: write `_ = ...`"


@notebooks
def test_unchecked_cells_say_why(path):
    for cell in cells(path, "code"):
        assert not re.search(r"#\s*(NBVAL_|PYTEST_VALIDATE_)", cell.source), "use cell tags, not comments"
        if tags(cell) & NBVAL_TAGS:
            assert len(cell.metadata.get("reason", "")) > 10, f"say why in the metadata (\"reason\"):\n{cell.source}"


@notebooks
def test_pictures_are_described(path):
    every = nbformat.read(path, 4).cells
    for cell, after in zip(every, [*every[1:], None], strict=True):
        if cell.cell_type == "code" and has_picture(cell):
            assert after is not None and after.cell_type == "markdown" and after.source.startswith("**Figure"), (
                f"a cell that begins with **Figure** and describes the picture must follow:\n{cell.source}")
    for cell in cells(path, "markdown"):
        assert all(alt.strip() for alt in re.findall(r"!\[(.*?)\]\(", cell.source)), "an image has no alt text"
        assert all(re.search(r'alt="[^"]+"', tag) for tag in re.findall(r"<img[^>]*>", cell.source))


@notebooks
def test_opening_says_what_a_reader_needs(path):
    first = cells(path, "markdown")[0].source
    repository = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    account = repository.removeprefix("https://github.com/")
    assert f"colab.research.google.com/github/{account}/blob/main/notebooks/{path.name}" in first
    assert f"mybinder.org/v2/gh/{account}/main?labpath=notebooks/{path.name}" in first
    for word in ("will be able to", "Prerequisites", "minute", "MB"):
        assert word in first, f"the first cell does not say: {word}"


@notebooks
def test_stored_text_names_no_machine(path):
    text = "".join(t for c in cells(path, "code") for t in text_outputs(c))
    assert not re.search(r"/(home|root|tmp|work|Users)/", text), "a path of your machine stands in an output"
