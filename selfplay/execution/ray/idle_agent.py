"""Takes the place of Ray's two agents (metrics and dashboard, runtime environments), which the raylet requires and no run uses.

Each would import Ray and a web server before the first worker can start, and the raylet ends where one is missing. This one says
of each port that it is not in use, as Ray's own agent does without `ray[default]`, and lives as long as the raylet.

Run as a script, with Python's library only and the arguments of Ray's agents.
"""

from __future__ import annotations

import os
import sys
import time

# files `NAME_NODE` in the session's folder, where the raylet reads the ports
PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
NOT_IN_USE = "-1"


def main() -> None:
    """Write the files, and wait for the end of the raylet."""
    raylet = os.getppid()
    given = dict(each.split("=", 1) for each in sys.argv[1:] if each.startswith("--") and "=" in each)
    for name in PORTS:
        path = f"{given['--session-dir']}/{name}_{given['--node-id']}"
        unfinished = f"{path}.{os.getpid()}"
        with open(unfinished, "w", encoding="ascii") as file:
            file.write(NOT_IN_USE)
        os.replace(unfinished, path)  # noqa: PTH105 - the whole of the standard library is not loaded here
    while os.getppid() == raylet:
        time.sleep(1)


if __name__ == "__main__":
    main()
