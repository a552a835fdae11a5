"""`make_run` (tests/inspect) makes the runs that are exported."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "inspect"))
