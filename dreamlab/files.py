"""Files that are whole or not there: written beside their place, then renamed into it."""
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor


@contextmanager
def writing(path: Path | str) -> Iterator[Path]:
    """``with writing(path) as part``: what is written to ``part`` becomes ``path``, whose folder is made if need be.

    If anything goes wrong, a full disk say, ``part`` is removed and what stood at ``path`` stays. OSError names the file.
    """
    path, part = Path(path), Path(f"{path}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.open("wb").close()
        mode = part.stat().st_mode  # that of any new file; safetensors gives its own another
        yield part
        os.chmod(part, mode)
        os.replace(part, path)
    except BaseException as error:
        try:
            part.unlink(missing_ok=True)
        except OSError:  # no folder to remove it from
            pass
        if not isinstance(error, (OSError, SafetensorError)):
            raise
        reason = getattr(error, "strerror", None) or str(error).removeprefix("Error while serializing: ")
        raise OSError(f"{path} could not be written ({reason}); what stood there before is kept. Once it can be written, "
                      "start the same run again: it goes on from its last checkpoint") from error


def load_weights(path: Path | str, mend: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file. FileNotFoundError that names it, and the ``mend``, where it is missing or damaged."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        why = "it is damaged" if Path(path).exists() else "there is no such file"
        raise FileNotFoundError(f"no weights in {path}, {why}: {mend}") from error


def sweep_strays(folder: Path | str, name: str = "*") -> None:
    """Remove the halves that a killed run has left in a folder: of all files, or of one."""
    for part in Path(folder).glob(f"{name}.part"):
        if part.is_file():
            part.unlink()


def try_writing(folder: Path | str) -> None:
    """OSError, before any work, where a folder cannot be made or written to; it is not left behind if it is new."""
    folder, new = Path(folder), None
    for parent in (folder, *folder.parents):
        if os.path.exists(parent):  # False where a name is too long
            break
        new = parent
    try:
        with writing(folder / ".dreamlab"):
            pass
    except OSError as error:
        why = error.__cause__.strerror
        raise OSError(f"nothing can be written to {folder} ({why}): choose another place (--out)") from error
    (folder / ".dreamlab").unlink()
    while new and folder != new.parent:
        folder.rmdir()
        folder = folder.parent


def write_text(path: Path | str, text: str) -> None:
    """Written aside and renamed."""
    with writing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path | str, values) -> None:
    """Written aside and renamed."""
    write_text(path, json.dumps(values, indent=2) + "\n")
