"""The machine a figure was measured on, and how busy others kept it."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from .streams import compiler

PEERS = ("thalweg", "pytorch_optimizer", "timm", "torch-optimi", "lion-pytorch", "triton")


def _field(path: str, name: str) -> str | None:
    try:
        text = Path(path).read_text()
    except OSError:
        return None
    found = re.search(rf"^{re.escape(name)}\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else None


def _caches() -> list[str]:
    described = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = ((index / n).read_text().strip() for n in ("level", "type", "size"))
        except OSError:
            continue
        described.append(f"L{level} {kind.lower()} {size}")
    return described


def _compiler() -> str:
    try:
        said = subprocess.run([*compiler(), "--version"], capture_output=True, text=True).stdout
    except OSError as error:
        return f"none ({error})"
    return said.splitlines()[0] if said else "unknown"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _versions() -> dict[str, str]:
    found = {name: _version(name) for name in PEERS}
    return {name: version for name, version in found.items() if version}


def cpu_name() -> str:
    """The processor's model name."""
    return _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()


def device_name(device: str) -> str:
    """What computes: the processor's or the accelerator's name."""
    return torch.cuda.get_device_name() if device == "cuda" else cpu_name()


def slug(device: str) -> str:
    """The device's name as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-") or "unknown"


def describe(device: str) -> dict[str, Any]:
    """Everything about this machine that a step's time may depend on."""
    family, model = (_field("/proc/cpuinfo", name) for name in ("cpu family", "model"))
    memory = _field("/proc/meminfo", "MemTotal")
    return {
        "device": device_name(device),
        "cpu": f"{cpu_name()} (family {family}, model {model})" if family else cpu_name(),
        "cores": os.cpu_count(),
        "caches": _caches(),
        "memory_gib": round(int(memory.split()[0]) / 2**20, 1) if memory else None,
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "compiler": _compiler(),
        "packages": _versions(),
    }


def available_bytes() -> int | None:
    """Memory that can be had without swapping, where the system says."""
    memory = _field("/proc/meminfo", "MemAvailable")
    return int(memory.split()[0]) * 1024 if memory else None


class Others:
    """The share of all cores that other processes used while this one measured."""

    def __init__(self) -> None:
        self.start = self._read()

    @staticmethod
    def _read() -> tuple[float, float, float]:
        try:
            line = Path("/proc/stat").read_text().splitlines()[0]
        except OSError:
            return time.perf_counter(), 0.0, 0.0
        user, nice, system, _idle, _wait, irq, softirq, steal = map(int, line.split()[1:9])
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        own = os.times()
        mine = own.user + own.system + own.children_user + own.children_system
        return time.perf_counter(), busy, mine

    def share(self) -> float:
        """0 when nothing else ran, 1 when others had all cores."""
        elapsed, busy, mine = (b - a for a, b in zip(self.start, self._read(), strict=True))
        return round(max(0.0, busy - mine) / max(elapsed, 1e-9) / (os.cpu_count() or 1), 3)
