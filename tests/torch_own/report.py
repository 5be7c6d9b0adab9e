"""The figure: what passed, failed and was skipped with our classes, and with torch's beside."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from torch_own import stand_in
from torch_own.known import KNOWN
from torch_own.run import FAILED, PASSED, SKIPPED, Outcome

NOT_OURS = "torch's classes that we lack"
ROOMS = {"TestLRScheduler": "schedulers", "TestSWAUtils": "averaging"}


def subject(name: str) -> str:
    """The optimizer that a test is about, or the room it belongs to."""
    case, _, test = name.partition(".")
    if case == "TestDifferentiableOptimizer":
        # `test_adam_differentiable_lr`; where no class is named, SGD is what is differentiated.
        word = test.removeprefix("test_").partition("_")[0]
        cls = {c.lower(): c for c in stand_in.CLASSES}.get(word, "SGD")
    elif found := re.search(rf"_({'|'.join(stand_in.CLASSES)})_(?:cpu|cuda|meta)", name):
        cls = found[1]
    else:
        return ROOMS.get(case, "other")
    return cls if cls in stand_in.ours() else NOT_OURS


def surprises(
    found: Mapping[str, Outcome], beside: Mapping[str, Outcome], *, whole: bool = True
) -> list[str]:
    """Sentences about what went otherwise than `known.py` and torch's own run say.

    Args:
        found: Our outcomes.
        beside: Those of torch's classes.
        whole: Whether all tests were run, so that a known failure that is missing is worth a word.
    """
    said = []
    for name, outcome in found.items():
        torchs = beside[name].status
        if outcome.status == FAILED and torchs != FAILED and name not in KNOWN:
            said.append(f"{name} fails; with torch's classes it is {torchs}")
        if outcome.status == SKIPPED and torchs == PASSED:
            said.append(f"{name} is skipped; with torch's classes it is passed")
        if name in KNOWN and (outcome.status != FAILED or torchs == FAILED):
            said.append(f"{name} stands in known.py and is {outcome.status}, torch's {torchs}")
    missing = [f"{name} is torch's and was not run" for name in beside if name not in found]
    gone = [f"{name} stands in known.py and is no test" for name in KNOWN if name not in found]
    return said + missing + gone * whole


def report(
    found: Mapping[str, Outcome], beside: Mapping[str, Outcome], *, whole: bool = True
) -> tuple[str, list[str]]:
    """The table as text, and the surprises."""
    runs = [found, beside] if beside else [found]
    rows = {title: [Counter[str]() for _ in runs] for title in [*map(subject, found), "all"]}
    for i, outcomes in enumerate(runs):
        for name, outcome in outcomes.items():
            for title in (subject(name), "all"):
                rows[title][i][outcome.status] += 1
    lines = [
        "passed / failed / skipped".rjust(60) + "with torch's classes".rjust(26) * bool(beside)
    ]
    for title, counts in sorted(rows.items(), key=lambda row: (row[0] == "all", row[0].lower())):
        cells = [" / ".join(str(c[s]) for s in (PASSED, FAILED, SKIPPED)).rjust(26) for c in counts]
        lines.append(f"{title:34}{''.join(cells)}")
    if not beside:
        return "\n".join(lines), []
    worse = {n: o for n, o in found.items() if o.status == FAILED and beside[n].status != FAILED}
    lines += ["", f"failed with ours only: {len(worse)}"]
    lines += [f"  {name}: {KNOWN.get(name, 'UNEXPECTED')}" for name in sorted(worse)]
    alike = Counter(
        subject(n) for n, o in found.items() if o.status == FAILED and beside[n].status == FAILED
    )
    lines.append("failed with both: " + (", ".join(f"{n} {c}" for n, c in alike.items()) or "0"))
    unexpected = surprises(found, beside, whole=whole)
    return "\n".join([*lines, *unexpected]), unexpected
