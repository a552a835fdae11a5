"""`make_run` (tests/inspect) makes the runs whose numbers are sent."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "inspect"))
