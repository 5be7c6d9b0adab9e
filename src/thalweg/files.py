"""Files that are there as a whole or not at all, whenever the process is killed or the power fails."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from typing import Any, BinaryIO

import torch

from thalweg.errors import ArgumentError, ArgumentTypeError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def save(obj: Any, path: str | os.PathLike[str]) -> None:
    """Save as `torch.save` does, so that the path always holds the old checkpoint or the new one, whole.

    It is written beside the path, brought to the disk and put in its place. A process killed at any moment
    leaves what was there before; what it had written so far is removed by the next save. Read it with
    `torch.load(path)`: weights, `optimizer.state_dict()` and numbers need no pickled code.

    Args:
        obj: What to save, such as {"model": model.state_dict(), "optimizer": optimizer.state_dict()}.
        path: Where. A link is followed, an old file's permissions are kept; the folder must exist, and have
            room for both.

    Raises:
        TypeError: The path is an open file, which nothing can replace.
        ValueError: Something else than a file is there.
        OSError: It cannot be written; the old file is untouched.

    Example:
        >>> import tempfile, torch, thalweg
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     thalweg.save({"step": 3, "weight": torch.ones(2)}, f"{folder}/last.pt")
        ...     torch.load(f"{folder}/last.pt")["step"]
        3
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ArgumentTypeError(
            f"save() takes a path and got {type(path).__name__}: into an open file nothing can be put at "
            "once; write torch.save(obj, file) there"
        )
    with replacing(os.path.realpath(path)) as file:
        torch.save(obj, file)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], *, mode: int = 0o666) -> Iterator[BinaryIO]:
    """Within the block a file to write to; after it that file is the path's, unless the block raised.

    Args:
        path: What to make or replace.
        mode: Permissions of a new file, less the umask.

    Raises:
        ValueError: Something else than a file is there.
        OSError: It cannot be written; what was there is untouched.
    """
    path = os.fspath(path)
    with contextlib.suppress(FileNotFoundError):
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise ArgumentError(f"{path!r} is no file, so that a file cannot take its place")
        mode = stat.S_IMODE(found.st_mode)
    _sweep(path)
    handle, temporary = _aside(path, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(handle)
            if fcntl is not None:  # while it is open, and so locked: no sweep comes between
                os.replace(temporary, path)
        if fcntl is None:  # Windows replaces no open file
            os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _settle(os.path.dirname(path) or ".")


def _aside(path: str, mode: int) -> tuple[int, str]:
    """A new file beside the path, locked while its writer lives."""
    folder, name = os.path.split(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    flags |= getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    while True:
        temporary = os.path.join(folder, f".{name}.{os.urandom(4).hex()}.tmp")
        handle = os.open(temporary, flags, mode)
        _lock(handle, wait=True)
        if os.fstat(handle).st_nlink:
            return handle, temporary
        os.close(handle)  # another writer swept it away before it was locked


def _sweep(path: str) -> None:
    """Remove what killed writers left: files aside that nobody holds locked."""
    folder, name = os.path.split(path)
    if fcntl is None:
        return
    for entry in os.scandir(folder or "."):
        if entry.name.startswith(f".{name}.") and entry.name.endswith(".tmp"):
            with contextlib.suppress(OSError), open(entry.path, "rb") as file:
                if _lock(file.fileno(), wait=False):
                    os.unlink(entry.path)


def _lock(handle: int, *, wait: bool) -> bool:
    """Lock a file until it is closed; False if another has it, or the file system has no locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def _settle(folder: str) -> None:
    """Bring the folder's entry to the disk too, where folders can be opened."""
    with contextlib.suppress(PermissionError):  # Windows; a folder that may be written but not read
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
