"""`python -m tests.torch_own DIRECTORY`: torch's own tests with our classes, beside torch's own figure."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from torch_own.report import report
from torch_own.run import Outcome, run


def main() -> int:
    """Run, print, and fail if anything went otherwise than `known.py` says."""
    parser = argparse.ArgumentParser(prog="python -m tests.torch_own", description=__doc__)
    parser.add_argument("directory", type=Path, help="the test directory of a PyTorch checkout")
    parser.add_argument(
        "-k", dest="pattern", default="", help="only tests with this text in their name"
    )
    parser.add_argument("-v", dest="verbose", action="store_true", help="tracebacks of what failed")
    parser.add_argument("--torch", dest="torchs", action="store_true", help="torch's own classes")
    parser.add_argument(
        "--json", action="store_true", help="print every outcome as JSON and nothing else"
    )
    args = parser.parse_args()
    found = run(args.directory, torchs=args.torchs, pattern=args.pattern)
    if args.json:
        print(json.dumps({name: asdict(outcome) for name, outcome in found.items()}))
        return 0
    beside = {} if args.torchs else outcomes(args.directory, torchs=True, pattern=args.pattern)
    text, unexpected = report(found, beside, whole=not args.pattern)
    if args.verbose:
        for name, outcome in found.items():
            if outcome.status == "failed":
                print(f"--- {name}\n{outcome.says}")
    print(text)
    return 1 if unexpected else 0


def outcomes(directory: Path, *, torchs: bool, pattern: str = "") -> dict[str, Outcome]:
    """The outcomes of a run in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "torch_own",
        str(directory.absolute()),
        "--json",
        "-k",
        pattern,
    ]
    done = subprocess.run(
        [*command, *["--torch"] * torchs],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},  # the same thalweg as here
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"torch's tests did not run:\n{done.stderr}")
    return {k: Outcome(**v) for k, v in json.loads(done.stdout.splitlines()[-1]).items()}


if __name__ == "__main__":
    sys.exit(main())
