"""selfplay: iterative self-play data generation with selection by alignment potential.

Importing this package imports nothing heavy: torch, vllm and ray are imported only by the processes that use them.
"""

__version__ = "0.1.0"
