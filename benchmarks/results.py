"""Figures: their statistics, and the JSON files that keep them."""

from __future__ import annotations

import datetime
import json
import re
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from . import machine

FOLDER = Path(__file__).parent / "results"


def paired(values: list[float], base: list[float]) -> float:
    """Median over rounds of the ratio within a round: slow drifts of the machine cancel."""
    return median(v / b for v, b in zip(values, base, strict=True))


def summarize(values: list[float], base: list[float] | None) -> dict[str, Any]:
    """Spread of one contender's samples, and its ratios to the base's."""
    low, middle, high = (
        quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    )
    figures: dict[str, Any] = {
        "median_ms": _short(middle),
        "min_ms": _short(min(values)),
        "q1_ms": _short(low),
        "q3_ms": _short(high),
    }
    if base is not None:
        figures["paired_ratio"] = _short(paired(values, base))
        figures["ratio_of_medians"] = _short(median(values) / median(base))
    return figures | {"samples_ms": [_short(v) for v in values]}


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def file_for(folder: Path, kind: str, name: str, threads: int, device: str) -> Path:
    """``<date>-<device>-<threads>t-<set or kind>.json``."""
    date = datetime.date.today().isoformat()
    what = "-".join(part for part in (kind if kind != "steps" else "", name) if part)
    return folder / f"{date}-{machine.slug(device)}-{threads}t-{what}.json"


def save(
    folder: Path, kind: str, name: str, threads: int, device: str, figures: dict[str, Any]
) -> Path:
    """Add figures to the day's file; those of another comparison in it stay."""
    path = file_for(folder, kind, name, threads, device)
    content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    content |= {
        "kind": kind,
        "set": name,
        "date": datetime.date.today().isoformat(),
        "threads": threads,
        "device": device,
        "machine": machine.describe(device),
        "figures": content.get("figures", {}) | figures,
    }
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=1)
    number_lists = re.compile(r"\[\s+([-+.\deE,\s]+?)\s+\]")
    text = number_lists.sub(lambda found: f"[{' '.join(found.group(1).split())}]", text)
    path.write_text(text + "\n")
    return path


def load(folder: Path) -> list[dict[str, Any]]:
    """The newest file of each device, thread count, kind and set."""
    newest: dict[tuple[Any, ...], dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json")):  # names begin with the date
        content = json.loads(path.read_text())
        key = (content["machine"]["device"], content["threads"], content["kind"], content["set"])
        newest[key] = content
    return list(newest.values())
