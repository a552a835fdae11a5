"""A driver that has started Ray obeys SIGTERM and its deadline as one that has not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DRIVER = """
import os, signal, sys, time
from pathlib import Path
from selfplay.execution.ray.ray_cluster import RayCluster
from selfplay.config.running import ClusterConfig
from selfplay.execution.signals import signals
from selfplay.execution.progress import Reporter
from selfplay.execution.signals import StopFlag

stop = StopFlag()
with signals(stop, 0.2, Reporter(quiet=True)), RayCluster(ClusterConfig(), Path(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.exit_code == 143
    try:
        time.sleep(20)
    except KeyboardInterrupt:
        print("stopped at the deadline", flush=True)
"""


def test_the_deadline_of_a_sigterm_comes_as_an_interrupt(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.stdout == "stopped at the deadline\n", done.stderr[-2000:]
    assert done.returncode == 0
    # Ray's own handler would write a trace first
    assert "SIGTERM received" not in done.stderr
