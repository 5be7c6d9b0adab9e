"""The folder of compiled objects: found, checked, written; never trusted further than its owner.

What protects against others is the folder: a real directory of the effective user that nobody else
may write to (its parents are taken to be as safe as the home directory is). The content hash in an
object's name protects against accidents only: truncation, a failing disk, a file copied over
another. Whoever can write into the folder can also write a name that fits, but that is the same
user or root, who need no cache to run code here. Hashing and `dlopen` open one name twice; only
that same user could exchange the file in between, and no hash can close the gap.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from pathlib import Path

from thalweg.files import replacing

__all__ = ["directory", "find", "store"]

_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


def directory() -> Path | None:
    """Return the folder of compiled objects, made if need be; None with THALWEG_CACHE=0.

    Raises:
        OSError: It cannot be made, is no directory, or others could write to it.
    """
    if os.environ.get("THALWEG_CACHE") == "0":
        return None
    path = _wanted()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.lstat()  # of the name itself: a link is refused, wherever it leads
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(f"{path} is a link, not a directory of its own")
    if found.st_uid != os.geteuid():
        raise PermissionError(f"{path} belongs to user {found.st_uid}, not to {os.geteuid()}")
    if found.st_mode & _OTHERS_MAY_WRITE:
        raise PermissionError(f"{path} may be written by others (chmod 700 mends it)")
    return path


def find(folder: Path, key: str) -> Path | None:
    """Return the intact object of `key`; one that is damaged or not ours is removed."""
    for path in sorted(folder.glob(f"{key}.*.so")):
        if _digest(path) == path.name.split(".")[1]:
            return path
        with contextlib.suppress(OSError):
            path.unlink()
    return None


def store(folder: Path, key: str, content: bytes) -> Path:
    """Write an object under its key and content hash; readers see all of it or nothing.

    Nobody waits: whoever comes second replaces a file by one as good.

    Raises:
        OSError: The folder is read-only, the disk full.
    """
    path = folder / f"{key}.{hashlib.sha256(content).hexdigest()}.so"
    with replacing(path, mode=0o600) as file:
        file.write(content)
    return path


def _wanted() -> Path:
    """Return the folder that the environment asks for."""
    if chosen := os.environ.get("THALWEG_CACHE_DIR"):
        return Path(os.path.abspath(os.path.expanduser(chosen)))
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):  # its specification: a relative one is ignored
        return Path(base, "thalweg")
    try:
        return Path.home() / ".cache" / "thalweg"
    except RuntimeError as error:
        raise FileNotFoundError("there is no home directory") from error


def _digest(path: Path) -> str | None:
    """Hash a file's content; None if it is no regular file of ours that only we may write."""
    try:  # without O_NONBLOCK a named pipe would hold us for ever
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(handle)
            ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
            if not ours or found.st_mode & _OTHERS_MAY_WRITE:
                return None
            return hashlib.sha256(file.read()).hexdigest()
    except OSError:
        return None
