"""No compiler, a broken one, a hostile cache folder, no memory: a process of its own for each."""

import os
import subprocess
import sys
import textwrap

import pytest

from thalweg.errors import CompilerError, ThalwegError


def script(text, **environment):
    """Run a script in a process of its own; what it printed."""
    paths = [*sys.path, os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **environment},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


WITHOUT_COMPILER = """
    import torch, thalweg
    p = torch.nn.Parameter(torch.ones(3)); p.grad = torch.ones(3)
    o = thalweg.AdamW([p], lr=0.1)
    for _ in range(3): o.step()
    reference = torch.nn.Parameter(torch.ones(3)); reference.grad = torch.ones(3)
    t = torch.optim.AdamW([reference], lr=0.1)
    for _ in range(3): t.step()
    assert torch.allclose(p, reference)
    print("EXPLAIN", o.explain())
    q = torch.nn.Parameter(torch.ones(3)); q.grad = torch.ones(3)
    try:
        thalweg.AdamW([q], fused=True).step()
    except thalweg.errors.ThalwegError as error:
        assert isinstance(error, RuntimeError), type(error)
        print("RAISED", error)
    assert torch.equal(q, torch.ones(3))
"""


def test_without_a_compiler_lists_are_used_and_said_once(tmp_path):
    folder = str(tmp_path / "cache")
    out = script(WITHOUT_COMPILER, THALWEG_CC="/nonexistent/cc", THALWEG_CACHE_DIR=folder)
    assert "foreach" in out.split("EXPLAIN")[1]
    assert "/nonexistent/cc" in out.split("EXPLAIN")[1].split("RAISED")[0]
    assert "/nonexistent/cc" in out.split("RAISED")[1]
    assert out.count("Warning:") == 1


def test_a_compiler_that_fails(tmp_path):
    """It answers as gcc does, and then cannot compile."""
    fake = tmp_path / "cc"
    fake.write_text(
        '#!/bin/sh\ncase "$*" in *-###*) echo "gcc version 99.9" >&2; exit 0;; esac\n'
        'echo "disk on fire" >&2\nexit 1\n'
    )
    fake.chmod(0o755)
    folder = str(tmp_path / "cache")
    out = script(WITHOUT_COMPILER, THALWEG_CC=str(fake), THALWEG_CACHE_DIR=folder)
    assert "foreach" in out.split("EXPLAIN")[1].split("RAISED")[0]
    assert "disk on fire" in out.split("RAISED")[1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    out = script(STEP, THALWEG_CACHE_DIR=str(tmp_path / "closed" / "cache"))
    assert "done" in out


STEP = """
    import torch, thalweg
    p = torch.nn.Parameter(torch.ones(3)); p.grad = torch.ones(3)
    o = thalweg.AdamW([p], lr=0.1)
    o.step()
    assert torch.allclose(p, torch.full((3,), 0.899), atol=1e-6)
    print(o.explain(), "done")
"""


@pytest.mark.parametrize("kind", ["link", "file", "writable by others", "full of rubbish"])
def test_a_broken_or_hostile_cache_folder_is_not_used(tmp_path, kind):
    """The step works all the same, and nothing that lay there is loaded or removed."""
    folder, target = tmp_path / "cache", tmp_path / "elsewhere"
    target.mkdir()
    if kind == "link":
        folder.symlink_to(target)
    elif kind == "file":
        folder.write_text("not a folder")
    elif kind == "writable by others":
        folder.mkdir()
        folder.chmod(0o777)
    else:
        folder.mkdir(mode=0o700)
        (folder / "rubbish.so").write_bytes(b"\x7fELF and nothing")
    assert "done" in script(STEP, THALWEG_CACHE_DIR=str(folder))
    if kind == "full of rubbish":
        for path in folder.glob("*.so"):  # every object truncated: each must be built again
            path.write_bytes(path.read_bytes()[:100])
        assert "done" in script(STEP, THALWEG_CACHE_DIR=str(folder))
    elif kind != "file":
        assert list(target.iterdir()) == []
        assert list(folder.iterdir()) == []


OUT_OF_MEMORY = """
    import resource, torch, thalweg
    torch.set_num_threads(1)

    def run(limit_at=None):
        torch.manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(4_000_000)) for _ in range(3)]
        grads = [torch.randn(4_000_000) for _ in params]
        o = thalweg.AdamW(params, lr=0.1, options=[thalweg.options.Lookahead(k=2)])
        for p, g in zip(params, grads): p.grad = g
        if limit_at is not None:
            used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + limit_at, resource.RLIM_INFINITY))
            try:
                o.step()
                print("ENOUGH", limit_at)
            except (RuntimeError, MemoryError) as error:
                print("FAILED", limit_at, str(error)[:60])
                resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
                assert len(o.state) == 0, "state of a failed step"
                torch.manual_seed(0)
                for p in params: assert torch.equal(p, torch.randn(4_000_000)), "moved"
                o.step()
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
        else:
            o.step()
        for _ in range(2): o.step()
        return params

    whole = run()
    for limit in (20_000_000, 60_000_000, 100_000_000):
        for p, q in zip(whole, run(limit)): assert torch.equal(p, q), limit
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_failed_allocation_leaves_nothing_behind():
    """State of 48 MB a slot, and an address space that ends before, within and behind it."""
    out = script(OUT_OF_MEMORY)
    assert "FAILED" in out


def test_compiler_errors_are_of_the_family():
    assert issubclass(CompilerError, ThalwegError)
    assert issubclass(CompilerError, RuntimeError)
