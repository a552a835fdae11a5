"""Property tests share the machine with whatever else runs: no deadline for a single example."""

from hypothesis import settings

settings.register_profile("shared_machine", deadline=None)
settings.load_profile("shared_machine")
