"""Files that are whole or not there: written beside their place, then renamed into it. And those that are refused."""
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor


class Refused(ValueError):
    """A file is there, and holds something else than what belongs there. One line: the file, what is wrong, the mend."""


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


def load_weights(path: Path | str, mend: str, like: Mapping[str, Iterable] | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file. FileNotFoundError that names it, and the ``mend``, where it is missing or damaged.

    With ``like`` they are checked by :func:`check_weights`, which raises :class:`Refused`.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise _unread(path, mend) from error
    if like is not None:
        check_weights(path, tensors, like, mend)
    return tensors


def _unread(path: Path | str, mend: str) -> FileNotFoundError:
    why = "it is damaged" if Path(path).exists() else "there is no such file"
    return FileNotFoundError(f"no weights in {path}, {why}: {mend}")


def refuse(path: Path | str, mend: str, **faults: Iterable) -> None:
    """:class:`Refused`, naming the file and what is at fault, unless each of the lists of ``faults`` is empty.

    A list may hold keys, or (key, shape found, shape wanted). ``refuse(file, "get it again", lacks=["head.bias"])``.
    """
    said = []
    for fault, keys in faults.items():
        named = sorted(f"{k[0]} {tuple(k[1])} for {tuple(k[2])}" if isinstance(k, tuple) else str(k) for k in keys)
        if named:
            more = f" and {len(named) - 3} more" if len(named) > 3 else ""
            said.append(f"{fault.replace('_', ' ')} {', '.join(named[:3])}{more}")
    if said:
        raise Refused(f"{path} does not hold the weights that belong there ({'; '.join(said)}): {mend}")


def check_weights(path: Path | str, tensors: Mapping[str, Tensor], like: Mapping[str, Iterable], mend: str) -> None:
    """:class:`Refused` where the tensors read from a file miss a key of ``like``, have another, another shape, or a NaN.

    ``like`` gives tensors or shapes, in which None is any length; load_state_dict itself would not mind a NaN.
    """
    shapes = {key: tuple(x.shape if isinstance(x, Tensor) else x) for key, x in like.items()}

    def fits(found: tuple, wanted: tuple) -> bool:
        return len(found) == len(wanted) and all(b in (None, a) for a, b in zip(found, wanted, strict=True))

    refuse(path, mend, lacks=shapes.keys() - tensors.keys(), unexpected=tensors.keys() - shapes.keys(),
           misshapen=[(k, tensors[k].shape, shape) for k, shape in shapes.items()
                      if k in tensors and not fits(tuple(tensors[k].shape), shape)],
           not_finite=[k for k, x in tensors.items() if not x.isfinite().all()])


def check_finite(path: Path | str, mend: str) -> None:
    """:class:`Refused` for a safetensors file with a NaN or an infinity; it is read a tensor at a time."""
    try:
        with safe_open(path, "pt") as file:
            bad = [key for key in file.keys() if not file.get_tensor(key).isfinite().all()]
    except (OSError, SafetensorError) as error:
        raise _unread(path, mend) from error
    refuse(path, mend, not_finite=bad)


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
