"""The C compiler: found, asked what it is, run; and the OpenMP runtime its objects will bind to."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from thalweg.errors import CompilerError

__all__ = ["ADVICE", "Compiler", "Runtime", "find_compiler", "find_runtime"]

ADVICE = "set THALWEG_CC to a working gcc or clang, or pass fused=False"

# No fast-math and no contraction: kernels equal the eager reference to the bit. Without the two
# -fno- flags gcc vectorises neither sqrtf nor a comparison. -w: what is shown of a failure is then
# the error, not a warning before it.
_FLAGS = (
    *("-O3", "-std=gnu11", "-fPIC", "-pipe", "-w"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"),
)
# 512-bit vectors, where the CPU has them, took 0.55 to 0.75 of the time of 256-bit ones in cache
# (AdamW, Zen 5, gcc 12) and the same time from memory.
_NATIVE = {
    "x86_64": ("-march=native", "-mprefer-vector-width=512"),
    "aarch64": ("-mcpu=native",),
    "arm64": ("-mcpu=native",),
}
# Handed past the driver to the compiler proper: the driver would also link a runtime.
_OPENMP = ("-Xpreprocessor", "-fopenmp")
_LINK = ("-shared", *(("-undefined", "dynamic_lookup") if sys.platform == "darwin" else ()))
_FROM_STDIN = ("-x", "c", "-", "-lm")
_PATIENCE = 300.0  # seconds until a compiler that does not end is given up
_LINES = 6  # of a compiler's complaint


@dataclass(frozen=True)
class Runtime:
    """The OpenMP library that provides a symbol in this process: its path and content hash."""

    path: str = ""
    digest: str = ""


@dataclass(frozen=True)
class Compiler:
    """A compiler that answered, and all it says of itself with `native` resolved."""

    command: tuple[str, ...]
    version: str
    answer: str

    @property
    def runtime(self) -> Runtime:
        """The OpenMP runtime of this process that this compiler's parallel regions can call."""
        return find_runtime("__kmpc_fork_call" if "clang" in self.answer else "GOMP_parallel")

    @property
    def flags(self) -> tuple[str, ...]:
        return (*_base_flags(), *(_OPENMP if self.runtime.path else ()))

    @property
    def isa(self) -> str:
        """The architecture that `native` stands for, in the compiler's own name."""
        names = re.findall(r'-m(?:arch|cpu)=([\w.+-]+)|"-target-cpu" "([^"]+)"', self.answer)
        return next((a or b for a, b in names if (a or b) != "native"), "the compiler's default")

    @property
    def identity(self) -> tuple[str, ...]:
        """All of it that an object depends on."""
        return (*self.command, *self.flags, *_LINK, *_FROM_STDIN, self.answer, self.runtime.digest)

    def build(self, source: str, target: Path) -> None:
        """Compile a C text into a shared object, in one call.

        Raises:
            CompilerError: The compiler failed.
        """
        _run((*self.command, *self.flags, *_LINK, "-o", str(target), *_FROM_STDIN), source)
        if not target.is_file():
            raise CompilerError(f"`{shlex.join(self.command)}` wrote no object; {ADVICE}.")

    def assemble(self, source: str) -> str:
        """Return the assembly of a C text.

        Raises:
            CompilerError: The compiler failed.
        """
        return _run((*self.command, *self.flags, "-S", "-o", "-", *_FROM_STDIN), source).stdout


def find_compiler() -> Compiler:
    """Return the compiler to use: $THALWEG_CC and no other, else the first that answers.

    Raises:
        CompilerError: None does.
    """
    if sys.platform == "win32":
        raise CompilerError("Compiled CPU kernels are not built on Windows; pass fused=False.")
    path = os.environ.get("PATH", os.defpath)
    if chosen := os.environ.get("THALWEG_CC"):
        try:
            return _ask(chosen, path)
        except CompilerError as error:
            raise CompilerError(f"THALWEG_CC={chosen!r} is no usable C compiler. {error}") from None
    for words in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if words and (compiler := _try(words, path)):
            return compiler
    raise CompilerError(
        "No C compiler was found: tried $CC, cc, gcc and clang; install one (Debian and Ubuntu:"
        f" apt install gcc libc6-dev), {ADVICE}."
    )


def _try(words: str, path: str) -> Compiler | None:
    try:
        return _ask(words, path)
    except CompilerError:
        return None


@functools.cache
def _ask(words: str, path: str) -> Compiler:
    """Ask a compiler for its version, its target and what `native` is, in one call of 2 ms."""
    name, *rest = [words] if shutil.which(words, path=path) else shlex.split(words)
    found = shutil.which(name, path=path)
    if found is None:
        raise CompilerError(f"{name!r} was not found or may not be run; {ADVICE}.")
    command = (os.path.abspath(found), *rest)
    # -###: say what would be run. "-o -" and the fixed input keep temporary names out of it.
    done = _run((*command, *_base_flags(), "-###", "-S", "-o", "-", "-x", "c", os.devnull))
    answer = done.stderr + done.stdout
    version = re.search(r"^.*\b(?:gcc|clang|LLVM) version .*$", answer, re.MULTILINE)
    if version is None:
        raise CompilerError(f"`{shlex.join(command)}` does not answer as gcc or clang; {ADVICE}.")
    return Compiler(command, version.group().strip(), answer)


def _base_flags() -> tuple[str, ...]:
    return (*_FLAGS, *_NATIVE.get(platform.machine(), ()))


def _run(command: Sequence[str], source: str = "") -> subprocess.CompletedProcess[str]:
    """Run a compiler with the C text on its standard input; a failure is told in full."""
    try:
        done = subprocess.run(
            command,
            input=source,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            cwd=os.sep,  # clang notes the directory: it must not become part of the key
            env={**os.environ, "LC_ALL": "C"},  # nor must the user's language
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise CompilerError(f"The C compiler could not be run: {error}; {ADVICE}.") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip() or "it said nothing"
        raise CompilerError(
            f"The C compiler failed: `{shlex.join(command)}` ended with {done.returncode}:\n"
            + "\n".join(said.splitlines()[:_LINES])
            + f"\nTo go on, {ADVICE}."
        )
    return done


class _DlInfo(ctypes.Structure):
    """What `dladdr` fills in."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


@functools.cache
def find_runtime(symbol: str) -> Runtime:
    """Return the library that gives `symbol` to objects loaded from now on; empty if none does.

    An object without a library of its own finds symbols in the process's global scope, and there
    the first one wins, so what is found once stays. Known by content, not by path: two environments
    with the same torch share their objects.
    """
    process = ctypes.CDLL(None)
    info = _DlInfo()
    try:
        found = process.dladdr(getattr(process, symbol), ctypes.byref(info))
    except AttributeError:
        return Runtime()
    path = os.fsdecode(info.file) if found and info.file else "unknown"
    try:
        return Runtime(path, hashlib.sha256(Path(path).read_bytes()).hexdigest())
    except OSError:
        return Runtime(path, path)
