"""Runs the examples of README.md as they are written: `python docs/run_examples.py` after `make quickstart`, or `make examples`.

Each `bash` block runs in order, from the root of the repository; the first failure ends the script. `sh` blocks have
placeholders and are left out. The examples write to runs/quickstart, runs/tour, runs/tour-random and tour/; the last three are
deleted first.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SELFPLAY = ROOT / ".venv" / "bin" / "selfplay"
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
VIEW = re.compile(r"^\.venv/bin/selfplay view (\S+).*\n", re.MULTILINE)
SECONDS_TO_START = 60


def run(script: str) -> None:
    print(script, flush=True)
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=ROOT, stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        sys.exit(f"error: this example ended with exit code {done.returncode}:\n{script}")


def view(folder: str) -> None:
    """Start the viewer, wait for its address, and end it as Ctrl-C does."""
    command = [str(SELFPLAY), "view", folder, "--no-open", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        assert server.stdout is not None
        signal.alarm(SECONDS_TO_START)
        started = any("http://127.0.0.1" in line for line in server.stdout)
        signal.alarm(0)
        server.send_signal(signal.SIGINT)
    if not started:
        sys.exit(f"error: selfplay view {folder} printed no address")


def main() -> None:
    for folder in ("runs/tour", "runs/tour-random", "tour"):
        shutil.rmtree(ROOT / folder, ignore_errors=True)
    pairs = [str(SELFPLAY), "pairs", "runs/quickstart", "3", "--limit", "1", "--json"]
    pair_id = re.search(
        r'"pair_id": "([^"]+)"', subprocess.run(pairs, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    )
    assert pair_id is not None
    for block in BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8")):
        for match in VIEW.finditer(block):
            view(match[1])
        run(VIEW.sub("", block).replace("PAIR_ID", pair_id[1]))


if __name__ == "__main__":
    main()
