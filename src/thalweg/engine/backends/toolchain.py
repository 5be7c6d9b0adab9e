"""C text in, loaded object out: compiled at first use, kept on disk, bound to torch's OpenMP.

Three things make this safe to do inside a step:

- The key of an object holds everything that could make it another one: the text, the flags, what
  the compiler says of itself with `native` resolved, the features of this CPU, the OpenMP runtime.
  An object built on another machine is therefore never found, let alone run.
- Objects are compiled with OpenMP but not linked with it: `GOMP_parallel` is found at `dlopen` in
  the process's global scope, where `import torch` has put the runtime that torch itself uses. The
  probe proves it: a thread count set from an object must be the one that torch then reports. Other
  runtimes mapped beside it (scikit-learn's wheel brings one) then do not matter.
- OpenMP's threads do not survive a fork, and waiting for them hangs: a forked child gets one.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import os
import platform
import shlex
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from thalweg.engine.backends import cache
from thalweg.engine.backends.compiler import ADVICE, Compiler, find_compiler
from thalweg.errors import CompilerError

__all__ = [
    "assembly",
    "build_many",
    "describe",
    "keeping_threads",
    "load",
    "on_threads",
    "step_threads",
    "threads",
    "unavailable",
]

T = TypeVar("T")
TABLE_ABI = 1  # raise it when the tables that kernels read change without a change of C text

_PROBE = """
double thalweg_probe(const double *x, long n, int threads)
{
    double total = 0.0;
    #pragma omp parallel for num_threads(threads) reduction(+ : total)
    for (long i = 0; i < n; i++) total += x[i];
    return total;
}
#ifdef _OPENMP
void omp_set_num_threads(int);
void thalweg_set_threads(int threads) { omp_set_num_threads(threads); }
#else
void thalweg_set_threads(int threads) { (void)threads; }
#endif
"""

_FORKED = (
    "after a fork steps run on one thread, for OpenMP's threads do not survive it; the"
    " 'spawn' and 'forkserver' start methods of multiprocessing keep them"
)

_lock = threading.Lock()
_loaded: dict[str, ctypes.CDLL] = {}
_said: set[str] = set()
_forked = False
_AS_IT_IS = nullcontext()


def load(source: str) -> ctypes.CDLL:
    """Return the loaded object of a C text, compiled if this machine has not done so before.

    Raises:
        CompilerError: There is no compiler, it fails, or its object cannot be loaded.
    """
    return build_many([source])[0]


def build_many(sources: Sequence[str]) -> list[ctypes.CDLL]:
    """Return the loaded objects of C texts, in their order; missing ones are compiled side by side.

    Raises:
        CompilerError: As `load`; then none of those that were missing is loaded.
    """
    compiler = find_compiler()
    keys = [_key(compiler, source) for source in sources]
    with _lock:
        missing = {k: s for k, s in zip(keys, sources, strict=True) if k not in _loaded}
        if missing:
            _loaded.update(_find_or_build(compiler, missing))
        return [_loaded[key] for key in keys]


def unavailable() -> str | None:
    """Return why there are no compiled kernels in this process, in one line; None if there are.

    The first call compiles or loads a small parallel sum and runs it.
    """
    return _probe().failure


def threads() -> int:
    """Return how many OpenMP threads a kernel may use now; ask again before each launch.

    torch's own count; or one, said once by a warning, after a fork or where objects could not be
    proved to use the same OpenMP runtime as torch.
    """
    wanted = torch.get_num_threads()
    if wanted == 1:
        return 1
    why = _FORKED if _forked else _probe().single
    if why is None:
        return wanted
    _say_once(why)
    return 1


def step_threads() -> AbstractContextManager[None]:
    """What a step runs in: as it is, or in a forked process on one thread, torch's operations too.

    torch's threads are those of the kernels: waiting for them after a fork hangs. The count is put back
    behind the step, for a process that was forked before its first parallel operation can use it.
    """
    if not _forked:
        return _AS_IT_IS
    if torch.get_num_threads() > 1:
        _say_once(_FORKED)
    return on_threads(1)


def keeping_threads(closure: Callable[[], T]) -> Callable[[], T]:
    """Let a closure run on the threads that are set now, whatever a step that calls it sets."""
    count = torch.get_num_threads()

    def evaluate() -> T:
        with on_threads(count):
            return closure()

    return evaluate


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Run torch's operations and the kernels on so many threads, and put the count back."""
    before = torch.get_num_threads()
    if before != count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if before != count:
            torch.set_num_threads(before)


def assembly(source: str) -> str:
    """Return the assembly of a C text, compiled with the flags that `load` uses.

    Raises:
        CompilerError: There is no compiler, or it fails.
    """
    return find_compiler().assemble(source)


def describe() -> str:
    """Return the compiler, what it compiles for, its OpenMP runtime and the cache, one per line."""
    try:
        compiler = find_compiler()
    except CompilerError as error:
        return f"compiler: none ({_one_line(error)})"
    try:
        folder = str(cache.directory() or "off (THALWEG_CACHE=0)")
    except OSError as error:
        folder = f"none ({error})"
    return (
        f"compiler: {shlex.join(compiler.command)} ({compiler.version}), for {compiler.isa}\n"
        f"openmp: {compiler.runtime.path or 'none that this compiler can use'}\n"
        f"cache: {folder}"
    )


def _key(compiler: Compiler, source: str) -> str:
    """Hash all that an object depends on."""
    machine = (platform.system(), platform.machine(), _cpu_features())
    parts = (source, str(TABLE_ABI), *machine, *compiler.identity)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@functools.cache
def _cpu_features() -> str:
    """Return the sorted feature flags of the first CPU; empty where Linux does not list them."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:
            for line in lines:  # not the whole file: hundreds of CPUs, all alike
                if line.lower().startswith(("flags", "features")):
                    return " ".join(sorted(line.partition(":")[2].split()))
    except OSError:
        pass
    return ""


def _find_or_build(compiler: Compiler, sources: Mapping[str, str]) -> dict[str, ctypes.CDLL]:
    """Load what the cache holds; compile the rest side by side in a private directory."""
    try:
        folder = cache.directory()
    except OSError as error:
        folder = None
        _say_once(f"compiled kernels are not kept on disk: {error}")
    found = {key: _load_kept(folder, key) for key in sources} if folder else {}
    objects = {key: library for key, library in found.items() if library is not None}
    missing = [key for key in sources if key not in objects]
    if not missing:
        return objects
    try:  # objects stay mapped when their files go, so nothing is left behind, come what may
        with tempfile.TemporaryDirectory(prefix="thalweg-") as scratch:
            built = {key: Path(scratch, f"{key}.so") for key in missing}
            with ThreadPoolExecutor(min(len(built), os.cpu_count() or 1)) as pool:
                list(pool.map(lambda key: compiler.build(sources[key], built[key]), missing))
            return objects | {key: _keep_and_load(folder, key, built[key]) for key in missing}
    except OSError as error:
        raise CompilerError(f"Compiling needs a temporary directory: {error}.") from error


def _load_kept(folder: Path, key: str) -> ctypes.CDLL | None:
    """Load an object from the cache; None, so that it is built anew, if it is not as it was."""
    try:
        path = cache.find(folder, key)
        return ctypes.CDLL(str(path)) if path else None
    except OSError:
        return None


def _keep_and_load(folder: Path | None, key: str, built: Path) -> ctypes.CDLL:
    """Put a new object into the cache and load it: from there, or from where it was built."""
    path = built
    try:
        if folder:
            path = cache.store(folder, key, built.read_bytes())
    except OSError as error:
        _say_once(f"compiled kernels are not kept on disk: {error}")
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise CompilerError(
            f"A compiled kernel could not be loaded: {error}; where its directory is mounted"
            f" noexec, set THALWEG_CACHE_DIR to another one; else {ADVICE}."
        ) from error


@dataclass(frozen=True)
class _Probe:
    """What the probe found: why there are no kernels, or why they run on one thread."""

    failure: str | None = None
    single: str | None = None


@functools.cache
def _probe() -> _Probe:
    """Build, load and run a parallel sum, and see whether torch shares its OpenMP runtime."""
    try:
        library = load(_PROBE)
    except CompilerError as error:
        return _Probe(failure=_one_line(error))
    values = (ctypes.c_double * 1000)(*range(1000))
    library.thalweg_probe.restype = ctypes.c_double
    total = library.thalweg_probe(values, ctypes.c_long(1000), 1 if _forked else 2)
    if total != sum(range(1000)):
        return _Probe(failure=f"a compiled sum came out as {total}, not {sum(range(1000))}")
    before = torch.get_num_threads()  # this thread's own: no other sees it change
    library.thalweg_set_threads(before + 1)
    shared = torch.get_num_threads() == before + 1
    library.thalweg_set_threads(before)
    if shared:
        return _Probe()
    if runtime := find_compiler().runtime.path:
        return _Probe(
            single=f"kernels run on one thread: their OpenMP is {runtime}, torch's is not"
        )
    return _Probe(single="kernels run on one thread: no OpenMP of this compiler's kind is loaded")


def _say_once(text: str) -> None:
    """Warn, the first time that this text comes up in the process."""
    if text not in _said:
        _said.add(text)
        warnings.warn(f"thalweg: {text}.", RuntimeWarning, stacklevel=3)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _after_fork() -> None:
    """In the child: no thread but this one lives, so none will ever release the old lock."""
    global _forked, _lock
    _forked, _lock = True, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
