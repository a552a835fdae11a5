"""Property tests share the machine with whatever else runs: no deadline for a single example."""

import sys
from pathlib import Path

from hypothesis import settings

# the slow reference that several of these tests share
sys.path.insert(0, str(Path(__file__).parent))

settings.register_profile("shared_machine", deadline=None)
settings.load_profile("shared_machine")
