"""An observer that notes what it is told, and a reporter that notes what is said."""

from __future__ import annotations

from selfplay.core.observer import Observer
from selfplay.execution.progress import Reporter


class Noting(Observer):
    def __init__(self) -> None:
        self.told: list[str] = []

    def on_begin(self) -> None:
        self.told.append("begin")

    def on_stage(self, round_number: int, stage: str) -> None:
        self.told.append(f"stage {round_number} {stage}")

    def on_round(self, round_number: int) -> None:
        self.told.append(f"round {round_number}")

    def on_end(self) -> None:
        self.told.append("end")


class Saying(Reporter):
    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)
