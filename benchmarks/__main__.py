"""`python -m benchmarks [NAME ...] [--json FILE]`: run them and say what was measured."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import driver_memory, opening, orchestration, ranking, selecting, viewer

BENCHMARKS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "ranking": ranking.measure,
    "opening": opening.measure,
    "viewer": viewer.measure,
    "driver_memory": driver_memory.measure,
    "selecting": selecting.measure,
    "orchestration": orchestration.measure,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all if none is given")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the document here too")
    parser.add_argument("--rows", type=int, default=10_000_000, help="pairs in the table (10,000,000)")
    parser.add_argument("--num-pairs", type=int, default=1_000_000, help="pairs of selecting (1,000,000)")
    parser.add_argument("--num-prompts", type=int, default=1_000_000, help="prompts of driver_memory (1,000,000)")
    parser.add_argument(
        "--folder", type=Path, help="where the tables are written; removed afterwards (a temporary one)"
    )
    given = parser.parse_args()
    unknown = set(given.names) - BENCHMARKS.keys()
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    document: dict[str, Any] = {"machine": _machine()}
    for name in given.names or BENCHMARKS:
        document[name] = BENCHMARKS[name](given)
    if given.json is not None:
        given.json.write_text(json.dumps(document, indent=1) + "\n")


def _machine() -> dict[str, Any]:
    from benchmarks.child import num_cores

    return {"cores": num_cores(), "python": platform.python_version(), "system": platform.system()}


if __name__ == "__main__":
    main()
