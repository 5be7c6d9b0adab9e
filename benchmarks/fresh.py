"""What only a fresh process can show: cold first step, import time, peak memory.

Run as ``python -m benchmarks.fresh JOB ...`` this file is the child and prints one JSON line.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MEMORY = ("thalweg fused", "thalweg foreach", "thalweg eager", "torch fused", "torch foreach")
Job = tuple[str, str, int]  # algorithm, contender, how often


def child(*arguments: str, **environment: str) -> dict[str, Any]:
    """Run a job of this file in a fresh interpreter; a failure comes back as ``error``."""
    done = _python("-m", "benchmarks.fresh", *arguments, **environment)
    if done.returncode:
        return {"error": _last_words(done)}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env={**inherited, **environment}, capture_output=True, text=True
    )


def _last_words(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stderr.strip() or "died without a word").splitlines()[-1][:200]


def cold(threads: int, set_name: str, jobs: list[Job]) -> dict[str, Any]:
    """Seconds of the first ``step()``, with an empty cache folder and then with a full one."""
    figures: dict[str, Any] = {}
    for algorithm, contender, repeats in jobs:
        runs: list[dict[str, Any]] = []
        with tempfile.TemporaryDirectory() as bytecode:  # as after an install: compiled already
            for _ in range(repeats + 1):
                job = ("cold", algorithm, contender, set_name, str(threads))
                runs.append(_cold_run(job, bytecode))
                if "error" in runs[-1]["empty"]:
                    break
        figures[f"{algorithm}: {contender}"] = _cold_summary(runs[1:] or runs)
    return figures


def _cold_run(job: tuple[str, ...], bytecode: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as cache:
        environment = {"THALWEG_CACHE_DIR": cache, "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor"}
        environment["PYTHONPYCACHEPREFIX"] = bytecode
        return {key: child(*job, **environment) for key in ("empty", "full")}


def _cold_summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    for run in runs:
        for answer in run.values():
            if "error" in answer:
                return {"error": answer["error"]}
    samples = {key: [run[key]["seconds"] for run in runs] for key in ("empty", "full")}
    medians = {f"{key}_s": median(values) for key, values in samples.items()}
    return medians | {"samples_s": samples}


def imports(repeats: int) -> dict[str, Any]:
    """Seconds of ``import torch`` and of ``import torch, thalweg``, in turns."""
    statements = {"torch": "import torch", "both": "import torch, thalweg"}
    samples: dict[str, list[float]] = {name: [] for name in statements}
    with tempfile.TemporaryDirectory() as bytecode:
        for attempt in range(repeats + 1):
            for name, statement in statements.items():
                code = f"import time; a = time.perf_counter(); {statement}; "
                code += "print(time.perf_counter() - a)"
                done = _python("-c", code, PYTHONPYCACHEPREFIX=bytecode)
                if done.returncode:
                    return {"error": _last_words(done)}
                if attempt:  # the first one compiles to bytecode and fills the file cache
                    samples[name].append(float(done.stdout))
    torch_s, both_s = (median(samples[name]) for name in statements)
    extra = median(b - a for a, b in zip(samples["torch"], samples["both"], strict=True))
    return {"torch_s": torch_s, "both_s": both_s, "extra_s": extra, "samples_s": samples}


def memory(threads: int, set_name: str, algorithm: str, contenders: list[str]) -> dict[str, Any]:
    """Bytes that a step takes at its peak over the state at rest, each in a process of its own."""
    return {name: child("memory", algorithm, name, set_name, str(threads)) for name in contenders}


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def _stepper(algorithm: str, contender: str, set_name: str, threads: str) -> Any:
    import torch

    from .models import SETS
    from .peers import COMPARISONS
    from .steps import Stepper, normal

    torch.set_num_threads(int(threads))
    row = next((r for r in COMPARISONS[algorithm].rows if r.name == contender), None)
    if row is None:
        raise SystemExit(f"there is no {contender} among the contenders of {algorithm}")
    shapes = SETS[set_name]()
    stepper = Stepper(row, normal(shapes, "cpu", 2e-2, seed=0))
    stepper.feed(normal(shapes, "cpu", 1e-2, seed=1))
    return stepper


def _cold_job(*job: str) -> dict[str, Any]:
    stepper = _stepper(*job)
    start = time.perf_counter()
    stepper.step()
    return {"seconds": time.perf_counter() - start}


def _memory_job(*job: str) -> dict[str, Any]:
    stepper = _stepper(*job)
    for _ in range(3):
        stepper.step()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # freed memory still held would hide what a step takes
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again at what is resident now
    rest = _resident("VmRSS")
    stepper.step()
    peak = _resident("VmHWM")
    return {"peak_bytes": max(0, peak - rest), "rest_bytes": rest, "state": stepper.state_bytes()}


JOBS: dict[str, Callable[..., dict[str, Any]]] = {"cold": _cold_job, "memory": _memory_job}

if __name__ == "__main__":
    print(json.dumps(JOBS[sys.argv[1]](*sys.argv[2:])))
