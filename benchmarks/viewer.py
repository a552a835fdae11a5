"""Benchmark `viewer`: pages over a run of a million responses with hostile texts, as a browser gets them from `selfplay view`.

Bar: a page in under 300 ms. Each is asked for six times; the first answer reads what it needs, the others may find it in memory.
"""

from __future__ import annotations

import argparse
import html
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from benchmarks.child import measured

BAR_SECONDS = 0.3
TIMES = 6
RESPONSES = 1_000_000
_PAIRS = "/run/run/round/1/pairs"


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """The document; a summary goes to stdout."""
    folder = Path(tempfile.mkdtemp(prefix="selfplay-viewer-", dir=given.folder))
    try:
        made = measured("benchmarks.hostile_run", folder / "runs" / "run", min(given.rows, RESPONSES))
        with _served(folder / "runs") as (address, process):
            pages = {name: _page(address, path, process.pid) for name, path in _pages(address).items()}
            peak = _peak_bytes(process.pid)
    finally:
        shutil.rmtree(folder)
    document = {
        **made,
        "pages": pages,
        "peak_bytes": peak,
        "bar": {"seconds": BAR_SECONDS},
        "within_bar": all(page["median"] < BAR_SECONDS for page in pages.values()),
    }
    sys.stdout.write(_text(document) + "\n")
    return document


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


def _page(address: str, path: str, pid: int) -> dict[str, Any]:
    seconds, size, before = [], 0, _cpu_seconds(pid)
    for _ in range(TIMES):
        started = time.perf_counter()
        size = len(_get(address, path))
        seconds.append(time.perf_counter() - started)
    return {
        "first": round(seconds[0], 4),
        "median": round(statistics.median(seconds), 4),
        "cpu_seconds": round((_cpu_seconds(pid) - before) / TIMES, 4),
        "letters": size,
    }


def _cpu_seconds(pid: int) -> float:
    """Seconds of processor that the server has used: on a busy machine they are what can be compared."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _text(document: dict[str, Any]) -> str:
    lines = [
        f"viewer over {document['num_responses']:,} responses ({document['table_bytes'] / 1e6:,.0f} MB of Parquet)"
    ]
    lines += [
        f"  {name:<26} first {page['first'] * 1000:6,.0f} ms   median of {TIMES} {page['median'] * 1000:6,.0f} ms"
        f"   processor {page['cpu_seconds'] * 1000:6,.0f} ms"
        for name, page in document["pages"].items()
    ]
    held = "held" if document["within_bar"] else "missed"
    lines.append(f"  peak {document['peak_bytes'] / 1e6:,.0f} MB; bar of {BAR_SECONDS * 1000:.0f} ms: {held}")
    return "\n".join(lines)
