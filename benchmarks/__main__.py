"""`python -m benchmarks [NAME ...] [--json FILE]`: run benchmarks and report their figures."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from benchmarks.child import device, num_cores
from benchmarks.figures import Given, Measured

# Each is a module with `measure(given: Given) -> Measured`.
NAMES = (
    "orchestration",
    "driver_cost",
    "scoring",
    "logprobs",
    "training",
    "weights",
    "rounds",
    "resuming",
    "preflight",
    "commands",
    "opening",
    "ranking",
    "selecting",
    "viewer",
    "driver_memory",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all if none is given")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the figures here; they are added to those of other benchmarks"
    )
    parser.add_argument("--runs", type=int, default=5, help="runs of each timed alternative, in turns (5)")
    parser.add_argument("--scale", type=float, default=1.0, help="sizes of the work over those of the bars (1)")
    parser.add_argument("--folder", type=Path, help="where tables are written; removed afterwards (a temporary folder)")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    # a command as an installation has it: with the bytecode of an earlier call
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # Ray's workers import fakes of this package, which is not installed
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    given = Given(options.runs, options.scale, options.folder)
    document: dict[str, Any] = json.loads(options.json.read_text()) if options.json and options.json.is_file() else {}
    for name in options.names or NAMES:
        found: Measured = importlib.import_module(f"benchmarks.{name}").measure(given)
        for figure in found.figures:
            sys.stdout.write(f"{figure.line()}\n")
        document[name] = {
            "machine": {"device": device(), "cores": num_cores(), "python": platform.python_version()},
            "runs": given.num_runs,
            "scale": given.scale,
            "figures": [figure.document() for figure in found.figures],
            "details": found.details,
        }
        if options.json is not None:
            options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
