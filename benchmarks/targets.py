"""What the figures are held against, and how each is read from the results."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from .families import FUSED as FUSED_TOO
from .families import KINDS, ONE, REDUCING, TWO
from .peers import ELEMENTWISE
from .results import paired

Results = dict[tuple[str, str], Any]  # (kind, set) -> figures
Measure = Callable[[Results], "tuple[float, str] | None"]  # a value and what it was read from


@dataclass(frozen=True)
class Target:
    """A bar; a measure returns None where it was not measured."""

    title: str
    bar: float
    measure: Measure
    unit: str = "x"


def _samples(results: Results, set_name: str, comparison: str) -> dict[str, list[float]]:
    found = results.get(("steps", set_name), {}).get(comparison, {}).get("contenders", {})
    return {name: figures["samples_ms"] for name, figures in found.items()}


def _middle(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def against(set_name: str, comparison: str, ours: str, base: str) -> Measure:
    """Paired ratio of two contenders."""

    def measure(results: Results) -> tuple[float, str] | None:
        samples = _samples(results, set_name, comparison)
        if ours not in samples or base not in samples:
            return None
        return paired(samples[ours], samples[base]), f"{ours} / {base}"

    return measure


def against_best(
    set_name: str, comparison: str, ours: str, rival: Callable[[str], bool]
) -> Measure:
    """Paired ratio to the rival with the lowest median."""

    def measure(results: Results) -> tuple[float, str] | None:
        samples = _samples(results, set_name, comparison)
        rivals = [name for name in samples if rival(name)]
        if ours not in samples or not rivals:
            return None
        best = min(rivals, key=lambda name: _middle(samples[name]))
        return paired(samples[ours], samples[best]), f"{ours} / {best}"

    return measure


def worst(measures: Iterable[Measure]) -> Measure:
    """The largest of several; None unless all were measured."""
    chosen = list(measures)

    def measure(results: Results) -> tuple[float, str] | None:
        found = [value for m in chosen if (value := m(results)) is not None]
        return max(found) if len(found) == len(chosen) else None

    return measure


def _state_ratio(results: Results) -> tuple[float, str] | None:
    found = results.get(("steps", "gpt2"), {}).get("lion", {}).get("contenders", {})
    sizes = [found.get(n, {}).get("state_bytes") for n in ("thalweg fused", "thalweg AdamW fused")]
    return None if None in sizes else (sizes[0] / sizes[1], "Lion / AdamW")


def _cold(results: Results) -> tuple[float, str] | None:
    found = results.get(("cold", "conv160"), {})
    ours = [
        (figures["empty_s"], name)
        for name, figures in found.items()
        if name.endswith("thalweg fused") and "empty_s" in figures
    ]
    return max(ours, default=None)


def _host(which: str) -> Measure:
    def measure(results: Results) -> tuple[float, str] | None:
        found = results.get(("host", "tiny10000"), {})
        ours = [(f[which]["us_per_tensor"], name) for name, f in found.items() if which in f]
        return max(ours, default=None)

    return measure


def _imports(results: Results) -> tuple[float, str] | None:
    found = results.get(("imports", ""), {}).get("imports", {})
    return (found["extra_s"], "medians of fresh processes") if "extra_s" in found else None


def _option(title: str) -> Measure:
    return against("gpt2", "options", title, "AdamW")


def _is_torch(name: str) -> bool:
    return name.startswith("torch ") and name != "torch compile"


def _is_other(name: str) -> bool:
    return not name.startswith(("thalweg", "streams"))


FUSED = "thalweg fused"
GPT2, SMALL = "GPT-2 small", "1000 of 64x16"
TARGETS = (
    Target(f"AdamW / torch fused AdamW, {GPT2}", 1.03,
           against("gpt2", "adamw", FUSED, "torch fused")),
    Target(f"AdamW / torch fused AdamW, {SMALL}", 0.3,
           against("small1000", "adamw", FUSED, "torch fused")),
    Target(f"AdamW / same streams, no arithmetic, {GPT2}", 1.05,
           against("gpt2", "adamw", FUSED, "streams")),
    Target(f"Lion / same streams, no arithmetic, {GPT2}", 1.05,
           against("gpt2", "lion", FUSED, "streams")),
    Target(f"RAdam / torch's best RAdam, {GPT2}", 0.25,
           against_best("gpt2", "radam", FUSED, _is_torch)),
    Target(f"Lion / fastest other Lion, {GPT2}", 0.55,
           against_best("gpt2", "lion", FUSED, _is_other)),
    Target(f"Lion / fastest other Lion, {SMALL}", 0.3,
           against_best("small1000", "lion", FUSED, _is_other)),
    Target("Lion / AdamW, both ours: state bytes", 0.5, _state_ratio),
    Target(f"Lion / AdamW, both ours: step time, {GPT2}", 0.8,
           against("gpt2", "lion", FUSED, "thalweg AdamW fused")),
    Target("elementwise options on AdamW (the slowest of them)", 1.05,
           worst(_option(title) for title in ELEMENTWISE)),
    Target("clip by global norm on AdamW", 1.25, _option("AdamW + clip by global norm")),
    Target("Lookahead k=6 on AdamW, mean of a cycle", 1.2,
           against("gpt2", "lookahead", "AdamW + lookahead k=6", "AdamW")),
    Target("Cautious with rescaling on AdamW", 1.8, _option("AdamW + cautious with rescaling")),
    Target("cold first step, empty cache, 160 tensors (slowest algorithm)", 1.5, _cold, "s"),
    Target("host time, 10000 tensors, same gradient objects", 0.5, _host("same"), "us/tensor"),
    Target("host time, 10000 tensors, new gradient objects", 1.0, _host("new"), "us/tensor"),
    *(
        Target(f"rules with {kind} / the fastest other (the slowest of them), {GPT2}", bar,
               worst(against_best("gpt2", name, FUSED, _is_other) for name in names))
        for kind, bar, names in (
            (kind, bar, [name for name, of in KINDS.items() if of == kind])
            for kind, bar in ((TWO, 0.6), (ONE, 0.7), (REDUCING, 0.8), (FUSED_TOO, 1.03))
        )
    ),
    Target("MuonAdamW / torch Muon, 24 matrices of 1024x1024", 0.7,
           against("matrices1024", "muonadamw", FUSED, "torch")),
    Target("MuonAdamW / torch Muon, 126 matrices of YOLO-like shapes", 0.7,
           against("yolo126", "muonadamw", FUSED, "torch")),
    Target("import thalweg beyond import torch", 0.1, _imports, "s"),
)  # fmt: skip
