"""Write docs/conformance.md: the conformance kit over Thalweg's optimizers and over the peers'.

    python -m benchmarks.conformance                # all libraries; twenty minutes
    python -m benchmarks.conformance thalweg torch  # these again; the others' results are kept
    python -m benchmarks.conformance --only complex,fork timm  # these checks again; other results stay
    python -m benchmarks.conformance --page         # only the page

Results stand in docs/conformance.json, by library and class. Each library runs in a process of its own.
"""

from __future__ import annotations

import inspect
import json
import os
import platform
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Collection
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import thalweg
from benchmarks.peers import import_peer
from thalweg.conformance import CAPABILITIES, CHECKS, check_optimizer
from thalweg.conformance.named import named_factory
from thalweg.conformance.subject import Subject, training

DOCS = Path(__file__).parent.parent / "docs"
RESULTS = DOCS / "conformance.json"
PAGE = DOCS / "conformance.md"

LIBRARIES = {  # what it is installed as: the module that its classes are read from
    "thalweg": "thalweg.optim",
    "torch": "torch.optim",
    "timm": "timm.optim",
    "pytorch_optimizer": "pytorch_optimizer",
    "torch-optimi": "optimi",
    "schedulefree": "schedulefree",
    "lion-pytorch": "lion_pytorch",
    "prodigyopt": "prodigyopt",
}
DECLARED = {  # what no probe can find out; by class, whoever's it is
    "LBFGS": {"closure-required", "one-group", "coupled"},
    "SparseAdam": {"sparse-only"},
    "Prodigy": {"coupled"},
    "AdaBound": {"anchored"},  # its bounds follow lr, in parts of the lr that it was made with
    "AMSBound": {"anchored"},
    "SAM(AdamW)": {"closure-required", "coupled"},
    "BSAM": {"closure-required"},
    "AliG": {"closure-required", "coupled"},
    "SGDScheduleFreeClosure": {"closure-required"},
    "AdamWScheduleFreeClosure": {"closure-required"},
    "RAdamScheduleFreeClosure": {"closure-required"},
}
DISTANCES = ("DAdapt", "Prodigy", "DoWG", "MSVAG")
"""Beginnings of names whose algorithm has a number that all parameters share."""
COMPOSITIONS: dict[str, set[str]] = {  # of ours, beside the classes, and what they declare
    "adamw + cautious + lookahead(k=2) + average(0.9)": set(),
    "adamw(weight_decay=0.1) + decay('independent', cautious=True)": {"anchored"},
    "adam + clip_norm(1.0) + skip_non_finite": {"coupled"},
    "lion + trust_ratio + centralize + state_dtype('bfloat16')": set(),
    "rmsprop + schedule_free + clip_value(0.5) + maximize": {"coupled"},
}
ARGUMENTS = {"SGD": "momentum=0.9", "SGDP": "lr=0.1"}
"""What shows more of a class than its defaults do (a plain SGD remembers nothing), or what it needs."""


def main(names: list[str]) -> None:
    """Run the libraries and write the page."""
    if names[:1] == ["--one"]:
        print(json.dumps(_library(names[1], names[2].split(","))))
        return
    only = ",".join(CHECKS)
    if names[:1] == ["--only"]:
        only, names = names[1], names[2:]
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in [] if names == ["--page"] else names or LIBRARIES:
        print(f"{name} ...", flush=True)
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.conformance", "--one", name, only],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        new = json.loads(done.stdout.splitlines()[-1])
        found[name] = new if only == ",".join(CHECKS) else _merged(found[name], new)
        RESULTS.write_text(_readable(found))
    PAGE.write_text(page({name: found[name] for name in LIBRARIES if name in found}))


def _readable(found: dict[str, Any]) -> str:
    """JSON with a line for each class."""
    lines = []
    for name, library in found.items():
        head = {k: v for k, v in library.items() if k != "classes"}
        rows = [f"   {json.dumps(n)}: {json.dumps(c)}" for n, c in library["classes"].items()]
        body = ",\n".join(rows)
        lines.append(
            f' {json.dumps(name)}: {json.dumps(head)[:-1]},\n  "classes": {{\n{body}\n  }}}}'
        )
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Put the answers of some checks into those of all."""
    classes = {}
    for name, was in old["classes"].items():
        now = new["classes"].get(name, was)
        if "unwalked" in now or "unwalked" in was:
            classes[name] = now
            continue
        said = {n: now if n in new["checks"] else was for n in CHECKS}
        excused = {n for n, check in CHECKS.items() if check.excused(now["declared"])}
        failed = [n for n in CHECKS if n in said[n]["failed"] and n not in excused]
        spared = [n for n in CHECKS if n in said[n]["not applicable"] or n in excused]
        found = {"declared": now["declared"], "failed": failed, "not applicable": spared}
        classes[name] = {**was, **found}
    checks = [n for n in CHECKS if n in old["checks"] or n in new["checks"]]
    return {**new, "checks": checks, "classes": classes}


def _library(name: str, checks: list[str]) -> dict[str, Any]:
    if name != "thalweg":
        sys.modules["triton"] = None  # type: ignore[assignment]  # without a GPU it only fails
    module = import_peer(LIBRARIES[name])
    out, sys.stdout = sys.stdout, sys.stderr  # what optimizers print is not the answer
    classes = {cls: _class(LIBRARIES[name], cls, checks) for cls in _classes(name, module)}
    if name == "thalweg":
        classes |= {t: _answers(t, f, checks) for t, f in compositions().items()}
    sys.stdout = out
    found = {"version": version(name), "machine": _machine(), "checks": checks}
    return {**found, "classes": classes}


def compositions() -> dict[str, Any]:
    """Factories of what is composed of ours, by title: options around a rule, and wrappers."""

    def lookahead(params: Any, **overrides: Any) -> Any:
        return thalweg.Lookahead(thalweg.AdamW(params, **overrides), k=2)

    def sam(params: Any, **overrides: Any) -> Any:
        return thalweg.SAM(thalweg.AdamW(params, **overrides))

    wrapped = {"Lookahead(AdamW, k=2)": lookahead, "SAM(AdamW)": sam}
    return {**{spec: named_factory(spec) for spec in COMPOSITIONS}, **wrapped}


def _machine() -> dict[str, str]:
    return {
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "cpus": str(os.cpu_count()),
    }


def _classes(name: str, module: Any) -> list[str]:
    """The public optimizer classes that are the library's own: none that it passes on."""
    from torch.optim import Optimizer

    package = LIBRARIES[name].partition(".")[0]
    return sorted(
        key
        for key, cls in vars(module).items()
        if inspect.isclass(cls)
        and issubclass(cls, Optimizer)
        and cls is not Optimizer
        and not key.startswith("_")
        and cls.__module__.partition(".")[0] == package
    )


def _class(module: str, name: str, checks: list[str]) -> dict[str, Any]:
    arguments = ARGUMENTS.get(name, "")
    factory = named_factory(f"{module}:{name}({arguments})")
    return _answers(name, factory, checks, arguments)


def _answers(name: str, factory: Any, checks: list[str], arguments: str = "") -> dict[str, Any]:
    print(f"  {name}", flush=True)
    declared = _declared(name, factory)
    subject = Subject(factory, frozenset(declared))
    try:
        moves = subject.first_move()
    except Exception as e:
        said = " ".join(str(e).split())
        return {"unwalked": f"{type(e).__name__}: {said[:100]}"}
    if moves is None:
        return {"unwalked": "it moves none of the weights"}
    report = check_optimizer(factory, capabilities=declared, checks=checks)
    return {
        "arguments": arguments,
        "declared": sorted(declared),
        "seconds": round(report.seconds, 1),
        "failed": [o.name for o in report.failed],
        "not applicable": [o.name for o in report.not_applicable],
    }


def _declared(name: str, factory: Any) -> set[str]:
    """What its author would declare: refusals in so many words, and what it takes without one."""
    found = set(DECLARED.get(name, set()) | COMPOSITIONS.get(name, set()))
    if name.startswith(DISTANCES) or "ScheduleFree" in name:  # a sum over steps for all of a group
        found.add("coupled")
    if _refusal(factory, found, [7]) and not _refusal(factory, found, [6, 5]):
        found.add("matrix-only")
    if _refusal(factory, found, [6, 5], "complex64"):
        found.add("real-only")
    if not found & {"sparse-only", "matrix-only"} and _takes_sparse(factory, found):
        found.add("sparse")
    return found


def _refusal(
    factory: Any, declared: Collection[str], shape: list[int], dtype: str = "float32"
) -> bool:
    """Whether building or stepping over such a parameter ends in a raise of the library's own."""
    import torch

    p = torch.nn.Parameter(torch.ones(shape, dtype=getattr(torch, dtype)))
    p.grad = torch.ones_like(p)
    try:
        _step(factory([p]), declared)
    except Exception as e:
        last = traceback.extract_tb(e.__traceback__)[-1]
        return (last.line or "").startswith("raise")
    return False


def _takes_sparse(factory: Any, declared: Collection[str]) -> bool:
    import torch

    p = torch.nn.Parameter(torch.ones(6, 5))
    p.grad = torch.ones(6, 5).to_sparse(1)
    try:
        _step(factory([p]), declared)
    except Exception:
        return False
    return True


def _step(optimizer: Any, declared: Collection[str]) -> None:
    Subject(type(optimizer), frozenset(declared)).step_with_what_is_there(training(optimizer))


# --- the page -------------------------------------------------------------------------------------

HEAD = """# Conformance

Does an optimizer behave as users of `torch.optim` may rely on? Every check below is a few lines in
`src/thalweg/conformance/`, runs on anybody's optimizer, and is shown to fail on one that is broken in that
way (`tests/broken_optimizers.py`). For yours:

```
thalweg check package.Class          # thalweg check --help
```

or `thalweg.conformance.check_optimizer(factory)` in a test. A check is not applicable only by a declared
capability, or because the optimizer has no such argument or count; that is counted. What can be declared:

{capabilities}

Written by `python -m benchmarks.conformance` ({machine}, CPU).
Capabilities are declared in every library's favour: `real-only` and `matrix-only` where a class refuses in
so many words, `sparse` where it takes sparse gradients. A failure is a departure from what users of
`torch.optim` rely on, not always a bug: some algorithms count steps per group on purpose, and one that draws
random numbers (Magma) differs from itself wherever two runs are compared. One that moves none of the weights
(SaRA trains those near zero) is not counted. Ours run as by default, compiled; eager and foreach pass the
same, but declare `temporaries`, and foreach `number-lr`, which it refuses in torch's words. Below our classes
stand compositions of them with options, and wrappers.
"""


def page(found: dict[str, Any]) -> str:
    """The whole page."""
    machine = next(iter(found.values()))["machine"]
    said = f"{machine['date']}, Python {machine['python']}, torch {machine['torch']}"
    capabilities = "\n".join(f"- `{name}`: {says}" for name, says in CAPABILITIES.items())
    parts = [HEAD.format(capabilities=capabilities, machine=said)]
    parts += ["## Libraries\n", _libraries(found), "## Checks\n", _checks(found)]
    parts += ["## Classes\n", *(_of_library(n, f) for n, f in found.items())]
    return "\n".join(parts)


def _built(library: dict[str, Any]) -> dict[str, Any]:
    return {n: c for n, c in library["classes"].items() if "unwalked" not in c}


def _asked(library: dict[str, Any], found: dict[str, Any]) -> int:
    return len(library["checks"]) - len(found["not applicable"])


def _table(head: list[str], rows: list[list[Any]]) -> str:
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)


def _libraries(found: dict[str, Any]) -> str:
    rows = []
    for name, library in found.items():
        classes = _built(library).values()
        asked = sum(_asked(library, c) for c in classes)
        passed = asked - sum(len(c["failed"]) for c in classes)
        excused = sum(len(c["not applicable"]) for c in classes)
        whole = sum(not c["failed"] for c in classes)
        share = f"{100 * passed / asked:.1f} %" if asked else ""
        label = f"{name} {library['version']}"
        rows.append([label, len(classes), whole, f"{passed} of {asked}", share, excused])
    head = ["library", "classes", "pass all", "checks passed", "", "not applicable"]
    return _table(head, rows)


def _checks(found: dict[str, Any]) -> str:
    text = "Classes that fail / that were asked; empty: none fails.\n\n"
    rows = []
    for name in CHECKS:
        cells = []
        for library in found.values():
            classes = _built(library).values()
            failed = sum(name in c["failed"] for c in classes)
            asked = sum(name in library["checks"] for _ in classes)
            asked -= sum(name in c["not applicable"] for c in classes)
            cells.append(f"{failed}/{asked}" if failed else "")
        rows.append([f"`{name}`", *cells])
    reasons = "".join(f"- `{name}`: {check.reason}\n" for name, check in CHECKS.items())
    return f"Who relies on what:\n\n{reasons}\n{text}{_table(['check', *found], rows)}"


def _of_library(name: str, library: dict[str, Any]) -> str:
    rows = []
    for cls, c in _built(library).items():
        asked = _asked(library, c)
        label = f"{cls}({c['arguments']})" if c["arguments"] else cls
        counts = f"{asked - len(c['failed'])}/{asked}"
        rows.append(
            [label, counts, len(c["not applicable"]), _names(c["declared"]), _names(c["failed"])]
        )
    text = f"### {name} {library['version']}\n\n"
    everywhere = _everywhere(library)
    if everywhere:
        text += f"Every class fails: {_names(everywhere)}; left out of the rows.\n\n"
        for row, c in zip(rows, _built(library).values(), strict=True):
            row[-1] = _names([n for n in c["failed"] if n not in everywhere])
    text += _table(["class", "passed", "not applicable", "declared", "fails"], rows)
    unwalked = [n for n, c in library["classes"].items() if "unwalked" in c]
    if unwalked:
        text += f"\nNot counted, taking no step from parameters and gradients alone: {_names(unwalked)}.\n"
    return text


def _everywhere(library: dict[str, Any]) -> list[str]:
    """What all of many classes fail: said once."""
    classes = _built(library)
    counts = Counter(n for c in classes.values() for n in c["failed"])
    return [n for n, count in counts.items() if count == len(classes) > 3]


def _names(names: list[str]) -> str:
    return ", ".join(names)


if __name__ == "__main__":
    main(sys.argv[1:])
