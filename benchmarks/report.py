"""The Markdown page of all results."""

from __future__ import annotations

from typing import Any

from .models import TITLES
from .targets import TARGETS, Results

HEAD = """# Benchmarks

Written by `python -m benchmarks --markdown docs/benchmarks.md` from the raw figures in
`benchmarks/results/`; measure anew with `python -m benchmarks --all` on an idle machine.

Contenders of one table take turns in one process, one sample each per round in shuffled order,
each on its own copy of the parameters, with the same gradient values in new tensors every step
(as `zero_grad()` and `backward()` make them) unless a table says otherwise; the garbage collector
is off, and making gradients is not timed. fp32. A ratio is the median over rounds of the ratio
within a round. `streams` is a C kernel with the loads and stores of the step and no arithmetic.
"""


def page(contents: list[dict[str, Any]]) -> str:
    """The whole page; one section for each device and thread count."""
    sections: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for content in contents:
        key = (content["machine"]["device"], content["threads"])
        sections.setdefault(key, []).append(content)
    parts = [HEAD]
    for (_, threads), files in sections.items():
        parts += _section(threads, files)
    return "\n".join(parts).rstrip() + "\n"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; the first column to the left, the rest to the right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _section(threads: int, files: list[dict[str, Any]]) -> list[str]:
    machine = max(files, key=lambda f: str(f["date"]))["machine"]
    parts = [f"## {machine['device']}, {threads} threads\n", _machine(machine, files)]
    if any(target.measure(_index(files)) for target in TARGETS):
        parts.append(f"### Targets\n\n{targets_table(_index(files))}")
    for content in files:
        if content["kind"] == "steps":
            parts.append(f"### {TITLES[content['set']]}\n")
            parts += [_steps(name, f) for name, f in content["figures"].items()]
    writers = {
        "memory": _memory,
        "cold": _cold,
        "host": _host,
        "monitor": _monitor,
        "imports": _imports,
    }
    for kind, write in writers.items():
        parts += [write(f["set"], f["figures"]) for f in files if f["kind"] == kind]
    return parts


def _index(files: list[dict[str, Any]]) -> Results:
    return {(f["kind"], f["set"]): f["figures"] for f in files}


def _machine(machine: dict[str, Any], files: list[dict[str, Any]]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    dates = sorted({str(f["date"]) for f in files})
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {', '.join(machine['caches'])}, "
        f"{machine['memory_gib']} GiB, {machine['system']}; Python {machine['python']}, "
        f"torch {machine['torch']}, {machine['compiler']}; {packages}. Measured on "
        f"{' and '.join(dates)}.\n"
    )


def targets_table(results: Results) -> str:
    """Each target beside what was measured; a miss says by how much."""
    rows = []
    for target in TARGETS:
        found = target.measure(results)
        if found is None:
            verdict, value, source = "not measured", "", ""
        else:
            measured, source = found
            excess = measured / target.bar - 1
            verdict = "met" if excess <= 0 else f"missed by {100 * excess:.2g} %"
            value = f"{measured:.3f} {target.unit}"
        rows.append([target.title, f"<= {target.bar:g} {target.unit}", value, verdict, source])
    return table(["", "target", "measured", "", "read from"], rows)


def _steps(name: str, figures: dict[str, Any]) -> str:
    rows = []
    ranked = sorted(figures["contenders"].items(), key=lambda item: float(item[1]["median_ms"]))
    for contender, f in ranked:
        spread = f"{f['q1_ms']:.3g} to {f['q3_ms']:.3g}"
        ratio = f"{f['paired_ratio']:.3f}" if "paired_ratio" in f else ""
        state = f"{f['state_bytes'] / figures['elements']:.2f}"
        middle, least = (f"{f[key]:.3g}" for key in ("median_ms", "min_ms"))
        rows.append([contender, middle, spread, least, ratio, state])
    ratio_title = f"ratio to {figures['base']}" if figures["base"] else "ratio"
    header = [name, "median, ms", "quartiles", "min", ratio_title, "state, B/element"]
    shown = table(header, rows) if rows else f"{name}: nobody could start.\n"
    return f"{shown}\n{_notes(figures)}\n"


def _notes(figures: dict[str, Any]) -> str:
    notes = [f"{figures['rounds']} rounds"]
    if figures["steps_per_sample"] > 1:
        notes.append(f"a sample is the mean of {figures['steps_per_sample']} steps")
    if figures["gradients"] != "new":
        notes.append("the same gradient objects every step")
    notes.append(f"other processes used {100 * figures['others_cpu_share']:.0f} % of the cores")
    streams = figures["contenders"].get("streams")
    if streams:
        moved = figures["elements"] * 12 + 2 * streams["state_bytes"]
        notes.append(f"streams moved {moved / streams['median_ms'] / 1e6:.0f} GB/s")
    text = f"{'; '.join(notes)}."
    reasons: dict[str, list[str]] = {}
    for contender, reason in figures["missing"].items():
        reasons.setdefault(reason, []).append(contender)
    missing = [f"{', '.join(names)} ({reason})" for reason, names in reasons.items()]
    return f"{text} Not here: {'; '.join(missing)}." if missing else text


def _memory(set_name: str, figures: dict[str, Any]) -> str:
    rows = []
    for algorithm, contenders in figures.items():
        for name, f in contenders.items():
            if "error" in f:
                rows.append([f"{algorithm}: {name}", f["error"], ""])
                continue
            peak, state = (f"{f[key] / 2**20:.1f}" for key in ("peak_bytes", "state"))
            rows.append([f"{algorithm}: {name}", peak, state])
    header = ["", "peak of a step over rest, MiB", "state, MiB"]
    return f"### Peak memory, {TITLES[set_name]}\n\n{table(header, rows)}"


def _cold(set_name: str, figures: dict[str, Any]) -> str:
    rows = []
    for name, f in figures.items():
        empty, full = (f"{f[key]:.3f}" if key in f else f.get("error", "") for key in _COLD_KEYS)
        rows.append([name, empty, full])
    header = ["first `step()` of a fresh process, s", "empty kernel cache", "full kernel cache"]
    return f"### Cold first step, {TITLES[set_name]}\n\n{table(header, rows)}"


_COLD_KEYS = ("empty_s", "full_s")


def _host(set_name: str, figures: dict[str, Any]) -> str:
    rows = []
    for name, f in figures.items():
        if "error" in f:
            rows.append([name, f["error"], ""])
            continue
        rows.append([name, *(f"{f[key]['us_per_tensor']:.3f}" for key in ("same", "new"))])
    header = ["us a tensor, kernel call replaced by nothing", "same gradients", "new gradients"]
    return f"### Host time, {TITLES[set_name]}\n\n{table(header, rows)}"


def _monitor(_: str, figures: dict[str, Any]) -> str:
    titles = {
        "alone": "`step()` on YOLOv8n's tensors",
        "training": "a training step of a small convolutional net",
    }
    rows = [
        [titles[name], *(f"{f[k]:.0f}" for k in ("plain", "passed over", "measured"))]
        + [f"{f[k]:.4f}" for k in ("passed over / plain", "every 100 / plain")]
        for name, f in figures.items()
    ]
    header = [
        "us; AdamW",
        "without",
        "passed over",
        "measured",
        "passed over, ratio",
        "every 100th",
    ]
    return f"### What the Monitor costs\n\n{table([*header[:-1], header[-1] + ', ratio'], rows)}"


def _imports(_: str, figures: dict[str, Any]) -> str:
    f = figures["imports"]
    if "error" in f:
        return f"### Import\n\n{f['error']}\n"
    rows = [[f"{f['torch_s']:.3f}", f"{f['both_s']:.3f}", f"{f['extra_s']:.3f}"]]
    return f"### Import, s\n\n{table(['torch', 'torch and thalweg', 'difference'], rows)}"
