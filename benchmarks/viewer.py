"""Benchmark `viewer`: pages over a run of a million responses with hostile texts, as a browser gets them from `selfplay view`.

Bar: a page in under 300 ms. The first answer reads what it needs, the others may find it in memory.
"""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import quote, urlencode

from benchmarks.child import measured
from benchmarks.figures import Figure, Given, Measured, alternate, median_of

BAR_SECONDS = 0.3
RESPONSES = 1_000_000
_PAIRS = "/run/run/round/1/pairs"


def measure(given: Given) -> Measured:
    """Seconds of each page, and the peak memory of the server."""
    with given.scratch() as folder:
        made = measured("benchmarks.hostile_run", folder / "runs" / "run", given.scaled(RESPONSES))
        with _served(folder / "runs") as (address, process):
            paths = _pages(address)
            first = {name: _seconds(address, path) for name, path in paths.items()}
            before = _cpu_seconds(process.pid)
            calls = {name: partial(_seconds, address, path) for name, path in paths.items()}
            seconds = alternate(calls, given.num_runs)
            used = _cpu_seconds(process.pid) - before
            peak = _peak_bytes(process.pid)
    work = f"{made['num_responses']:,} responses, {made['table_bytes'] / 1e9:.1f} GB of Parquet"
    figures = [median_of(f"viewer: {name}", found, "s", work, bar=BAR_SECONDS) for name, found in seconds.items()]
    figures.append(Figure("viewer: peak of memory", peak / 1e9, "GB", work))
    details = {"seconds_of_first_answer": first, "processor_seconds_of_all": used}
    return Measured(figures, {**made, **details})


@contextmanager
def _served(place: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    command = [sys.executable, "-m", "selfplay", "view", str(place), "--port", "0", "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip().rstrip("/"), process
        finally:
            process.terminate()


def _pages(address: str) -> dict[str, str]:
    def first_pair(query: str) -> str:
        found = re.search(r'href="(/run/run/round/1/pair\?[^"]*)"', _get(address, f"{_PAIRS}{query}"))
        assert found is not None
        return html.unescape(found[1])

    filtered = {
        "min.explicit_margin": "1",
        "where": "num_tokens_chosen > 2 * num_tokens_rejected",
        "sort": "reward_chosen",
    }
    return {
        "list of runs": "/",
        "a run": "/run/run",
        "a round": "/run/run/round/1",
        "pairs": _PAIRS,
        "kept pairs": f"{_PAIRS}?kept=yes",
        "from the middle on": f"{_PAIRS}?page=10000",
        "fifty on a page": f"{_PAIRS}?size=50",
        "sorted": f"{_PAIRS}?sort=explicit_margin",
        "sorted by id": f"{_PAIRS}?sort=pair_id",
        "filtered and sorted": f"{_PAIRS}?{urlencode(filtered)}",
        "longest first": f"{_PAIRS}?sort=num_tokens_chosen",
        "a text searched": f"{_PAIRS}?q={quote('<script>')}",
        "a pair": first_pair(""),
        "a pair of a sorted list": first_pair("?sort=explicit_margin"),
        "a pair of 100 kB": first_pair("?sort=num_tokens_chosen"),
        "a prompt": "/run/run/round/1/prompt?id=p00000007",
        "round against round": "/run/run/against",
        "a prompt, round by round": "/run/run/against?id=e00000003",
    }


def _get(address: str, path: str) -> str:
    with urllib.request.urlopen(address + path, timeout=120) as answer:
        return str(answer.read().decode())


def _seconds(address: str, path: str) -> float:
    started = time.perf_counter()
    _get(address, path)
    return time.perf_counter() - started


def _cpu_seconds(pid: int) -> float:
    """Seconds of processor that the server has used: on a busy machine they are what can be compared."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
