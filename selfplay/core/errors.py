"""The one exception hierarchy.

Every error that a user can meet derives from `SelfplayError`: it carries the message, a hint that says what to do, and the
exit code of the command that ends with it. All of them pickle (they cross Ray's process boundary).
"""

from __future__ import annotations


class SelfplayError(Exception):
    """Base of all errors shown to a user. `hint` is the way out, one or two sentences."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type[SelfplayError], tuple[str, str]]:
        return (type(self), (self.message, self.hint))

    def __str__(self) -> str:
        return f"{self.message}\n  -> {self.hint}" if self.hint else self.message


class ConfigError(SelfplayError):
    """A setting, a command line or an input file that cannot be used."""

    exit_code = 2


class DataError(ConfigError):
    """An input file whose rows cannot be used; the message names file and row."""


class ModelError(ConfigError):
    """A model folder that is missing, incomplete or of the wrong kind."""


class MissingInputError(ModelError, DataError):
    """Inputs that are not where the configuration says. `settings` are the names of the settings."""

    def __init__(self, message: str, hint: str = "", settings: tuple[str, ...] = ()) -> None:
        super().__init__(message, hint)
        self.settings = settings

    def __reduce__(self) -> tuple[type[SelfplayError], tuple]:  # type: ignore[type-arg]
        return (type(self), (self.message, self.hint, self.settings))


class ResourceError(SelfplayError):
    """The machine or cluster lacks what the run asks for (memory, disk, devices)."""


class LockedError(SelfplayError):
    """Another driver holds the run."""

    exit_code = 3


class DriftError(SelfplayError):
    """The configuration or an input's content differs from what the run was started with."""

    exit_code = 4


class CorruptionError(SelfplayError):
    """A committed file is not what its commit says."""

    exit_code = 5


class BackendError(SelfplayError):
    """A sampler, reward model or trainer failed; the message names it and its last words."""


class WorkerLostError(BackendError):
    """A backend that cannot go on: its process must be replaced, and the call counts as one that killed it."""


class DivergedError(BackendError):
    """A training whose loss, gradient or weights are no numbers, or beyond their limits: nothing of it is kept."""


class RuinedPolicyError(DivergedError):
    """A training that left a policy of finite numbers which is of no use: nothing of it is kept."""


class WeightSyncError(BackendError):
    """An engine could not take over new weights, or did not pass the canary after it."""


class GateError(SelfplayError):
    """A round's data look like those of a collapsed policy: nothing is trained on them."""


class OutputError(SelfplayError):
    """Standard output takes no more."""


class EmptyRoundsError(SelfplayError):
    """Two rounds in a row kept no pair."""


class Interrupted(SelfplayError):
    """The run was asked to stop and did so at a safe point."""

    exit_code = 130

    def __init__(self, message: str, hint: str = "", exit_code: int = 130) -> None:
        super().__init__(message, hint)
        self.exit_code = exit_code

    def __reduce__(self) -> tuple[type[SelfplayError], tuple]:  # type: ignore[type-arg]
        return (type(self), (self.message, self.hint, self.exit_code))
