"""One finding of `doctor`: what was looked at, how it is, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Example: Finding("torch", "fail", "torch is not installed", "pip install 'torch>=2.11'")"""

    name: str
    state: State
    message: str
    hint: str = ""
