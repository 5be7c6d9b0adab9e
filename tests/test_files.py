"""`thalweg.save`: the path holds the old checkpoint or the new one, whole, whatever happens meanwhile."""

from __future__ import annotations

import io
import os
import signal
import stat
import sys
import threading

import pytest
import torch

import thalweg
from thalweg import files
from trajectories import assert_same_bits

OLD = {"step": 1, "weights": torch.arange(2000.0)}
NEW = {"step": 2, "weights": torch.arange(3000.0), "nested": [{"lr": 0.1}, (True, None, "x")]}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "last.pt"
    thalweg.save(OLD, path)
    return path


def load(path):
    return torch.load(path, weights_only=True)


def names(path):
    return sorted(entry.name for entry in path.parent.iterdir())


def test_it_saves_what_torch_saves(path):
    assert_same_bits(load(path), OLD)
    thalweg.save(NEW, str(path))
    assert_same_bits(load(path), NEW)
    assert names(path) == ["last.pt"]


# --- killed ---------------------------------------------------------------------------------------


def killed_at(event, action):
    """Run the action in a child that kills itself at that call or return; tell whether it did."""
    child = os.fork()
    if child == 0:
        seen = 0

        def look(*_):
            nonlocal seen
            seen += 1
            if seen == event:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.setprofile(look)
            action()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_anywhere_inside_it_leaves_one_or_the_other(path):
    """Every moment is tried at which Python calls or returns; with torch.save there are torn files."""
    torn = path.with_name("torn.pt")
    found, event, broken = [], 0, 0
    while killed_at(event := event + 3, lambda: thalweg.save(NEW, path)):
        found.append(load(path)["step"])
    assert found == sorted(found), "the new one came and went"
    assert set(found) == {1, 2}
    for event in range(20, len(found) * 3, 40):
        torch.save(OLD, torn)
        killed_at(event, lambda: torch.save(NEW, torn))
        try:
            load(torn)
        except Exception:
            broken += 1
    assert broken, "this test does not see a torn file"
    torn.unlink()
    thalweg.save(OLD, path)  # what the killed ones had written aside is gone
    assert names(path) == ["last.pt"]


def test_another_writers_file_is_left_alone(path):
    other = threading.Event(), threading.Event()

    def write():
        with files.replacing(path) as file:
            torch.save(NEW, file)
            other[0].set()
            other[1].wait(20)

    thread = threading.Thread(target=write)
    thread.start()
    assert other[0].wait(20)
    thalweg.save({"step": 3}, path)
    assert load(path)["step"] == 3
    other[1].set()
    thread.join()
    assert_same_bits(load(path), NEW)
    assert names(path) == ["last.pt"]


# --- errors ---------------------------------------------------------------------------------------


class Unpicklable:
    def __reduce__(self):
        raise RuntimeError("not me")


def test_an_error_leaves_the_old_file(path):
    with pytest.raises(RuntimeError, match="not me"):
        thalweg.save({"weights": torch.ones(5), "x": Unpicklable()}, path)
    assert_same_bits(load(path), OLD)
    assert names(path) == ["last.pt"]


def test_a_full_disk_leaves_the_old_file(path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        thalweg.save(NEW, path)
    assert_same_bits(load(path), OLD)
    assert names(path) == ["last.pt"]


def test_file_and_folder_reach_the_disk_in_order(path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace

    def see_fsync(handle):
        done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def see_replace(*args):
        done.append("replace")
        replace(*args)

    monkeypatch.setattr(os, "fsync", see_fsync)
    monkeypatch.setattr(os, "replace", see_replace)
    thalweg.save(NEW, path)
    assert done == ["file", "replace", "folder"]


def test_what_is_no_path_is_refused(path):
    with pytest.raises(TypeError, match="takes a path and got BytesIO"):
        thalweg.save(NEW, io.BytesIO())
    with pytest.raises(ValueError, match="is no file"):
        thalweg.save(NEW, path.parent)
    with pytest.raises(ValueError, match="'/dev/null' is no file"):
        thalweg.save(NEW, "/dev/null")
    with pytest.raises(FileNotFoundError):
        thalweg.save(NEW, path.parent / "no" / "x.pt")


def test_permissions_and_links_stay(path):
    path.chmod(0o640)
    link = path.with_name("latest.pt")
    link.symlink_to(path.name)
    thalweg.save(NEW, link)
    assert link.is_symlink()
    assert_same_bits(load(path), NEW)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    mask = os.umask(0o027)
    try:
        thalweg.save(NEW, path.with_name("new.pt"))
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.with_name("new.pt").stat().st_mode) == 0o640


def test_a_path_without_folder(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    thalweg.save(NEW, "last.pt")
    assert_same_bits(load(path), NEW)
