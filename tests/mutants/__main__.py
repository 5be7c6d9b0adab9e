"""`python -m tests.mutants`: seed wrong edits one at a time, and see which of them our tests notice."""

from __future__ import annotations

import argparse
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from mutants.edits import EDITS
from mutants.run import FALLBACK, WHOLE, Verdict, examine


def main() -> int:
    """Run, print a line per mutant and the count; fail if one survived."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("-k", dest="pattern", default="", help="only edits with this in their name")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    parser.add_argument("--whole", action="store_true", help="the whole default suite on each")
    parser.add_argument(
        "--sound",
        action="store_true",
        help="the chosen tests on the source as it is: all must pass",
    )
    parser.add_argument("--quick", action="store_true", help="the chosen tests and no others")
    args = parser.parse_args()
    chosen = [e for e in EDITS if args.pattern in e.name]
    if not chosen:
        parser.error(f"no edit has {args.pattern!r} in its name")
    with (
        tempfile.TemporaryDirectory(prefix="mutants-") as cache,
        ThreadPoolExecutor(args.jobs) as pool,
    ):
        if args.sound:
            return sound(dict.fromkeys(s for e in chosen for s in e.tests), Path(cache), pool)
        further = () if args.quick else FALLBACK
        jobs = [
            pool.submit(examine, e, WHOLE if args.whole else (*e.tests, *further), Path(cache))
            for e in chosen
        ]
        print("| mutant | file | what is wrong | noticed by |\n|---|---|---|---|", flush=True)
        verdicts = []
        for job in jobs:
            verdicts.append(job.result())
            print(line(verdicts[-1]), flush=True)
    survived = [v for v in verdicts if not v.noticed_by]
    print(
        f"\n{len(verdicts) - len(survived)} of {len(verdicts)} noticed in "
        f"{sum(v.seconds for v in verdicts) / 60:.0f} minutes"
        + "".join(f"\nsurvived: {v.edit.name}" for v in survived)
    )
    return 1 if survived else 0


def sound(selections: dict[str, None], cache: Path, pool: ThreadPoolExecutor) -> int:
    """Whether each selection passes where nothing is wrong."""
    verdicts = pool.map(lambda s: (s, examine(None, (s,), cache)), selections)
    failed = 0
    for selection, verdict in verdicts:
        failed += bool(verdict.noticed_by)
        print(f"{verdict.noticed_by or 'passes'}: pytest {selection}", flush=True)
    return 1 if failed else 0


def line(verdict: Verdict) -> str:
    """A row of the table."""
    edit = verdict.edit
    found = f"`{verdict.noticed_by}`" if verdict.noticed_by else "**survived**"
    return f"| {edit.name} | {edit.file} | {edit.what} | {found.replace('|', '/')} |"


if __name__ == "__main__":
    sys.exit(main())
