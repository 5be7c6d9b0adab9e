"""The C toolchain: what is compiled, what is kept, what is refused, and on how many threads."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import platform
import pwd
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch

from thalweg.engine.backends import cache, compiler, toolchain
from thalweg.errors import CompilerError

pytestmark = [
    pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler"),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and ELF"),
    pytest.mark.filterwarnings("error::RuntimeWarning", "ignore:.*fork.*:DeprecationWarning"),
]

ANSWER = "int answer(void) { return 42; }\n"
SQRT = """
#include <math.h>
void kernel(float *restrict y, const float *restrict x, long n)
{ for (long i = 0; i < n; i++) y[i] = sqrtf(x[i]) * 3.0f + 1.0f; }
"""
TEAM = """
int omp_get_num_threads(void);
int team(int threads)
{
    int size = 0;
    #pragma omp parallel num_threads(threads)
    {
        #pragma omp master
        size = omp_get_num_threads();
    }
    return size;
}
"""
ADAMW = """
#include <math.h>
#include <stdint.h>
typedef struct { float *p; const float *g; float *m; float *v; int64_t n; } entry;
void kernel(const entry *t, int64_t count, const double *s, int threads)
{
    #pragma omp parallel for num_threads(threads)
    for (int64_t k = 0; k < count; k++) {
        float *restrict p = t[k].p, *restrict m = t[k].m, *restrict v = t[k].v;
        const float *restrict g = t[k].g;
        const float decay = s[0], lr = s[1], b1 = s[2], b2 = s[3], eps = s[4], c = s[5];
        for (int64_t i = 0; i < t[k].n; i++) {
            m[i] = m[i] + b1 * (g[i] - m[i]);
            v[i] = v[i] + b2 * (g[i] * g[i] - v[i]);
            p[i] = p[i] * decay - lr * m[i] / (sqrtf(v[i]) * c + eps);
        }
    }
}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A cache of this test's own, and a toolchain that has loaded and said nothing yet."""
    for name in ("CC", "THALWEG_CC", "THALWEG_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("THALWEG_CACHE_DIR", str(tmp_path / "kernels"))
    forget(monkeypatch)
    monkeypatch.setattr(toolchain, "_said", set())
    toolchain._probe.cache_clear()
    yield tmp_path / "kernels"
    toolchain._probe.cache_clear()


@pytest.fixture
def builds(monkeypatch):
    """The sources compiled so far."""
    seen = []
    build = compiler.Compiler.build

    def counted(self, source, target):
        seen.append(source)
        build(self, source, target)

    monkeypatch.setattr(compiler.Compiler, "build", counted)
    return seen


def forget(monkeypatch):
    monkeypatch.setattr(toolchain, "_loaded", {})


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def key(source=ANSWER):
    return toolchain._key(compiler.find_compiler(), source)


def plant(folder, answer=13):
    """Put an object that gives another answer where the one of ANSWER would be kept."""
    target = folder.parent / f"evil{answer}.so"
    compiler.find_compiler().build(ANSWER.replace("42", str(answer)), target)
    content = target.read_bytes()
    path = folder / f"{key()}.{hashlib.sha256(content).hexdigest()}.so"
    path.write_bytes(content)
    path.chmod(0o600)
    return path


# --- built once, kept, found again --------------------------------------------------------------


def test_load_compiles_once_and_finds_it_again(folder, builds, monkeypatch):
    assert toolchain.load(ANSWER).answer() == 42
    assert toolchain.load(ANSWER) is toolchain.load(ANSWER)
    assert builds == [ANSWER]
    forget(monkeypatch)
    assert toolchain.load(ANSWER).answer() == 42
    assert builds == [ANSWER]
    (kept,) = folder.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_build_many_keeps_order_and_compiles_side_by_side(monkeypatch):
    together = threading.Barrier(2, timeout=10)
    build = compiler.Compiler.build

    def meet(self, source, target):
        together.wait()  # one after the other would wait for ever
        build(self, source, target)

    monkeypatch.setattr(compiler.Compiler, "build", meet)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    other = ANSWER.replace("42", "7")
    first, second, third = toolchain.build_many([ANSWER, other, ANSWER])
    assert (first.answer(), second.answer()) == (42, 7)
    assert third is first
    assert toolchain.build_many([]) == []


def test_threads_of_one_process_compile_once(builds):
    with ThreadPoolExecutor(4) as pool:
        libraries = list(pool.map(toolchain.load, [ANSWER] * 8))
    assert builds == [ANSWER]
    assert all(library is libraries[0] for library in libraries)


def test_four_processes_with_a_cold_cache(folder):
    start = time.time() + 0.2
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            try:
                time.sleep(max(0.0, start - time.time()))
                os._exit(0 if toolchain.load(ANSWER).answer() == 42 else 1)
            finally:
                os._exit(2)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert [path.name.split(".")[0] for path in folder.iterdir()] == [key()]  # and no *.tmp


def test_a_kernel_compiles_in_a_quarter_of_a_second(monkeypatch):
    monkeypatch.setenv("THALWEG_CACHE", "0")
    seconds = []
    for number in range(3):
        start = time.perf_counter()
        toolchain.load(f"{ADAMW}/* {number} */")
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.25


# --- the key ------------------------------------------------------------------------------------


def changed_key(part, monkeypatch):
    """The key of ANSWER with one of the things that it depends on changed, and nothing else."""
    found = compiler.find_compiler()
    host = {"system": platform.system, "machine": platform.machine}
    if part in host:
        other = SimpleNamespace(**{**host, part: lambda: "plan9"})
        monkeypatch.setattr(toolchain, "platform", other)
    elif part == "flags":
        monkeypatch.setattr(compiler, "_FLAGS", (*compiler._FLAGS, "-g"))
    elif part == "table":
        monkeypatch.setattr(toolchain, "TABLE_ABI", toolchain.TABLE_ABI + 1)
    elif part == "features":
        features = toolchain._cpu_features() + " avx9"
        monkeypatch.setattr(toolchain, "_cpu_features", lambda: features)
    elif part == "runtime":
        other = dataclasses.replace(found.runtime, digest="another")
        monkeypatch.setattr(compiler, "find_runtime", lambda _: other)
    elif part == "command":
        found = dataclasses.replace(found, command=(*found.command, "-g"))
    elif part == "answer":
        found = dataclasses.replace(found, answer=found.answer.replace("-m", "-mno-", 1))
    return toolchain._key(found, ANSWER + " " if part == "source" else ANSWER)


PARTS = (
    *("source", "flags", "table", "features", "runtime"),
    *("system", "machine", "command", "answer"),
)


@pytest.mark.parametrize("part", PARTS)
def test_key_changes_with(part, monkeypatch):
    before = key()
    assert changed_key("nothing", monkeypatch) == before
    assert changed_key(part, monkeypatch) != before


def test_key_holds_version_target_and_resolved_isa():
    answer = compiler.find_compiler().answer
    assert answer in compiler.find_compiler().identity
    assert re.search(r"version \d+\.\d+", answer)
    assert re.search(r"^Target: .+", answer, re.MULTILINE)
    assert compiler.find_compiler().isa not in ("native", "the compiler's default")
    if platform.machine() == "x86_64":
        has_avx512 = "avx512f" in toolchain._cpu_features().split()
        assert bool(re.search(r'(-m|"\+)avx512f', answer)) == has_avx512


def test_key_depends_neither_on_the_directory_nor_on_the_language(tmp_path, monkeypatch):
    talk = 'echo "gcc version 1.0 in $PWD, speaking $LC_ALL" >&2'
    monkeypatch.setenv("THALWEG_CC", script(tmp_path / "talks", talk))
    before = key()
    compiler._ask.cache_clear()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LC_ALL", "fr_FR.UTF-8")
    assert key() == before


# --- damage -------------------------------------------------------------------------------------


def cut(path):
    path.write_bytes(path.read_bytes()[:5000])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def exchange(path):
    name = path.name
    path.unlink()
    plant(path.parent).rename(path.parent / name)


def rename(path):
    path.rename(path.with_name(f"{key()}.{'0' * 64}.so"))


def open_to_others(path):
    path.chmod(0o622)


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def link(path):
    target = path.parent.parent / "elsewhere.so"
    path.rename(target)
    path.symlink_to(target)


@pytest.mark.parametrize("harm", [cut, flip, exchange, rename, open_to_others, pipe, link])
def test_a_damaged_object_is_built_anew(harm, folder, builds, monkeypatch):
    # another process made it: what this one has mapped is never changed under its feet
    folder.mkdir(mode=0o700)
    content = plant(folder, answer=42).read_bytes()
    (kept,) = folder.iterdir()
    builds.clear()
    harm(kept)
    assert toolchain.load(ANSWER).answer() == 42
    assert builds[-1] == ANSWER
    (kept,) = folder.iterdir()
    assert kept.read_bytes() == content
    assert cache.find(folder, key()) == kept


def test_an_object_that_cannot_be_loaded_is_an_error_not_a_loop(folder, builds):
    source = "int nowhere(void); int answer(void) { return nowhere(); }"
    for _ in range(2):
        with pytest.raises(CompilerError, match=r"could not be loaded: .*nowhere"):
            toolchain.load(source)
    assert builds == [source, source]
    assert toolchain.load(ANSWER).answer() == 42


# --- folders that cannot be used ----------------------------------------------------------------


def as_link(folder):
    real = folder.parent / "real"
    real.mkdir(mode=0o700)
    folder.symlink_to(real)


def world_writable(folder):
    folder.mkdir()
    folder.chmod(0o777)


def group_writable(folder):
    folder.mkdir()
    folder.chmod(0o770)


def of_another_user(folder):
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, 12345)


def test_an_object_in_a_good_folder_is_used(folder):
    """The control of the next test: what is planted there would be loaded."""
    folder.mkdir(mode=0o700)
    plant(folder)
    assert toolchain.load(ANSWER).answer() == 13


@pytest.mark.parametrize("hostile", [as_link, world_writable, group_writable, of_another_user])
def test_nothing_is_loaded_from_a_hostile_folder(hostile, folder, builds):
    hostile(folder)
    planted = plant(folder)
    builds.clear()
    with pytest.warns(RuntimeWarning, match="not kept on disk"):
        assert toolchain.load(ANSWER).answer() == 42
    toolchain.load(SQRT)  # says nothing more: a warning is an error here
    assert builds == [ANSWER, SQRT]
    assert list(folder.iterdir()) == [planted]


def under_a_file(folder, monkeypatch):
    folder.parent.joinpath("file").write_text("")
    monkeypatch.setenv("THALWEG_CACHE_DIR", str(folder.parent / "file" / "kernels"))


def a_file(folder, monkeypatch):
    folder.write_text("")


def read_only(folder, monkeypatch):
    monkeypatch.setenv("THALWEG_CACHE_DIR", "/proc/thalweg")  # refuses even root


def full_disk(folder, monkeypatch):
    def no_space(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache.os, "fsync", no_space)


def no_home(folder, monkeypatch):
    for name in ("THALWEG_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)

    def nobody(_):
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", nobody)


@pytest.mark.parametrize("broken", [under_a_file, a_file, read_only, full_disk, no_home])
def test_without_a_usable_folder_it_works_and_says_so_once(
    broken, folder, tmp_path, builds, monkeypatch
):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    broken(folder, monkeypatch)
    with pytest.warns(RuntimeWarning, match="not kept on disk"):
        assert toolchain.load(ANSWER).answer() == 42
    toolchain.load(SQRT)  # says nothing more: a warning is an error here
    assert toolchain.load(ANSWER).answer() == 42
    assert builds == [ANSWER, SQRT]
    left = [*scratch.iterdir(), *(folder.iterdir() if folder.is_dir() else ())]
    assert left == []


def test_the_cache_can_be_switched_off(folder, builds, monkeypatch):
    monkeypatch.setenv("THALWEG_CACHE", "0")
    for _ in range(2):
        assert toolchain.load(ANSWER).answer() == 42
        forget(monkeypatch)
    assert builds == [ANSWER, ANSWER]
    assert not folder.exists()
    assert "THALWEG_CACHE=0" in toolchain.describe()


def test_where_the_folder_is(tmp_path, monkeypatch):
    monkeypatch.delenv("THALWEG_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.directory() == tmp_path / "xdg" / "thalweg"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache.directory() == tmp_path / "home" / ".cache" / "thalweg"
    monkeypatch.setenv("THALWEG_CACHE_DIR", "~/mine")
    assert cache.directory() == tmp_path / "home" / "mine"


# --- compilers that are missing or fail ---------------------------------------------------------


def fails(tmp_path):
    return script(tmp_path / "fails", "echo 'cc: fatal error: no licence' >&2; exit 3")


def fails_late(tmp_path):
    talk = f'case "$*" in *-###*) exec {shutil.which("cc")} "$@";; esac'
    return script(tmp_path / "late", f"{talk}; echo 'k.c:1: error: no tea' >&2; seq 99 >&2; exit 4")


def writes_nothing(tmp_path):
    talk = f'case "$*" in *-###*) exec {shutil.which("cc")} "$@";; esac'
    return script(tmp_path / "idle", f"{talk}; exit 0")


@pytest.mark.parametrize(
    ("compiler_of", "words"),
    [
        (lambda _: "/bin/false", ["THALWEG_CC='/bin/false'", "ended with 1", "it said nothing"]),
        (lambda _: "/bin/true", ["THALWEG_CC='/bin/true'", "does not answer as gcc or clang"]),
        (lambda _: "no-such-cc", ["THALWEG_CC='no-such-cc'", "was not found"]),
        (fails, ["THALWEG_CC=", "ended with 3", "fatal error: no licence"]),
        (fails_late, ["late -O3", "ended with 4", "error: no tea"]),
        (writes_nothing, ["idle", "wrote no object"]),
    ],
    ids=["false", "true", "missing", "fails", "fails late", "writes nothing"],
)
def test_a_chosen_compiler_that_fails_is_an_error(compiler_of, words, tmp_path, monkeypatch):
    monkeypatch.setenv("THALWEG_CC", compiler_of(tmp_path))
    with pytest.raises(CompilerError) as caught:
        toolchain.load(ANSWER)
    for word in (*words, "set THALWEG_CC to a working gcc or clang", "fused=False"):
        assert word in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 8
    reason = toolchain.unavailable()
    assert reason is not None
    assert words[-1] in reason
    assert "\n" not in reason


def test_no_compiler_at_all(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CompilerError, match=r"tried \$CC, cc, gcc and clang; install one"):
        toolchain.load(ANSWER)
    assert "No C compiler was found" in str(toolchain.unavailable())
    assert toolchain.describe().startswith("compiler: none (No C compiler")


def test_cc_is_a_preference_and_may_hold_words(monkeypatch):
    monkeypatch.setenv("CC", "no-such-cc")
    assert compiler.find_compiler().command == (shutil.which("cc"),)
    monkeypatch.setenv("CC", "cc -DANSWER=7")
    assert compiler.find_compiler().command == (shutil.which("cc"), "-DANSWER=7")
    assert toolchain.load("int answer(void) { return ANSWER; }").answer() == 7


def test_wrong_text_is_refused_with_what_the_compiler_says():
    warned = "".join(f"int f{i}(void) {{ return 1 << 99; }}\n" for i in range(9))
    with pytest.raises(CompilerError, match=r"(?s)C compiler failed: `.*-O3.*` ended.*error: "):
        toolchain.build_many([ANSWER, warned + "int answer(void) { return }"])
    assert toolchain.load(ANSWER).answer() == 42


def test_describe_names_what_is_used(folder):
    said = toolchain.describe()
    found = compiler.find_compiler()
    for word in (found.command[0], found.version, f"for {found.isa}", str(folder), "openmp: "):
        assert word in said


# --- what is compiled ---------------------------------------------------------------------------


def test_a_root_is_vectorised_and_nothing_is_contracted():
    text = toolchain.assembly(SQRT)
    if platform.machine() == "x86_64":
        width = "zmm" if "avx512f" in toolchain._cpu_features().split() else "[xyz]mm"
        assert re.search(rf"\bv?sqrtps\b.*%{width}", text)
        assert not re.search(r"\bvfn?m(add|sub)", text)
    else:
        assert re.search(r"\bfsqrt\s+[vz]\d+\.", text)
        assert not re.search(r"\bfml[as]\b|\bfmadd\b", text)
    assert not re.search(r"\b(call|bl|jmp|b)\s+_?sqrtf", text)


# --- OpenMP -------------------------------------------------------------------------------------


def test_the_probe_passes_and_torch_shares_its_runtime():
    assert toolchain.unavailable() is None
    before = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert toolchain.threads() == count
            assert toolchain.load(TEAM).team(count) == count
    finally:
        torch.set_num_threads(before)


def test_objects_are_not_linked_with_openmp(folder):
    toolchain.load(TEAM)
    (kept,) = folder.iterdir()
    needed = subprocess.run(["readelf", "-d", kept], capture_output=True, text=True).stdout
    assert "Dynamic section" in needed
    assert not re.search(r"NEEDED.*omp", needed)
    assert re.search(rb"GOMP_parallel|__kmpc_fork_call", kept.read_bytes())


def test_a_probe_with_a_wrong_sum_makes_kernels_unavailable(monkeypatch):
    monkeypatch.setattr(toolchain, "_PROBE", toolchain._PROBE.replace("total += x[i]", "total = 1"))
    assert "came out as" in str(toolchain.unavailable())


def threads_when_torch_has_two():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        return toolchain.threads()
    finally:
        torch.set_num_threads(before)


def test_without_a_runtime_kernels_run_on_one_thread(monkeypatch):
    monkeypatch.setattr(compiler, "find_runtime", lambda _: compiler.Runtime())
    assert toolchain.unavailable() is None
    with pytest.warns(RuntimeWarning, match="on one thread: no OpenMP"):
        assert threads_when_torch_has_two() == 1
    assert threads_when_torch_has_two() == 1  # says nothing more


def test_with_a_runtime_that_is_not_torchs_kernels_run_on_one_thread(monkeypatch):
    deaf = toolchain._PROBE.replace("omp_set_num_threads(threads);", "(void)threads;")
    monkeypatch.setattr(toolchain, "_PROBE", deaf)
    with pytest.warns(RuntimeWarning, match="on one thread: their OpenMP is .*omp"):
        assert threads_when_torch_has_two() == 1


IN_A_CHILD = """
import json, os, re, signal, sys, warnings
import torch
torch.set_num_threads(2)
try: import sklearn.cluster
except ImportError: pass
from thalweg.engine.backends import toolchain
with open("/proc/self/maps") as maps:
    runtimes = set(re.findall(r"/\\S*/lib(?:gomp|omp|iomp5)[-.]\\S*", maps.read()))
TEAM = sys.stdin.read()
parent = toolchain.threads()
team = toolchain.load(TEAM).team(parent)
signal.alarm(20)  # a hang is a failure
read, write = os.pipe()
child = os.fork()
if child == 0:
    signal.alarm(10)  # not inherited
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        counts = [toolchain.threads(), toolchain.threads()]
        teams = [toolchain.load(TEAM).team(count) for count in counts]
        fresh = toolchain.load(TEAM + " ").team(1)
        said = [str(each.message) for each in said]
    os.write(write, json.dumps([counts, teams, fresh, said]).encode())
    os._exit(0)
status = os.waitpid(child, 0)[1]
os.close(write)
with os.fdopen(read) as result:
    print(json.dumps([sorted(runtimes), parent, team, status, json.load(result)]))
"""


def test_a_second_runtime_is_harmless_and_a_forked_child_gets_one_thread():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IN_A_CHILD],
        input=TEAM, capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    runtimes, parent, team, status, (counts, teams, fresh, said) = json.loads(done.stdout)
    if "scikit_learn.libs" in " ".join(runtimes):
        assert len(runtimes) > 1  # it brings its own, and torch's is still ours
    assert (parent, team) == (2, 2)
    assert status == 0
    assert (counts, teams, fresh) == ([1, 1], [1, 1], 1)
    assert len(said) == 1
    assert "after a fork" in said[0]


def test_a_fork_while_another_thread_compiles(monkeypatch):
    """The lock that thread holds is never released in the child."""
    with toolchain._lock:
        child = os.fork()
        if child == 0:
            try:
                signal.alarm(10)
                os._exit(0 if toolchain.load(ANSWER).answer() == 42 else 1)
            finally:
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
