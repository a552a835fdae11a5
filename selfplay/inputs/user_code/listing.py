"""Which code a configuration makes this machine run: listed with digests before any of it is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from selfplay.config.named_files import is_own_metric
from selfplay.config.schema import Config
from selfplay.inputs.models.files import loaded_files
from selfplay.inputs.user_code.loading import digest_of, source_files
from selfplay.store.durable import sha256_file


@dataclass(frozen=True, slots=True)
class Code:
    """The code that one setting names: a function of the user's, or a model's own code.

    `pin` is the digest that pins a run to it; `function` is the function's name, empty for a model; `files` are its files with
    their sha256 (see `source_files` for what they cover), that of the function first. A Ray cluster, which decides what runs,
    stands here by its address (`pin`), without files.
    """

    setting: str
    pin: str
    function: str
    files: tuple[tuple[Path, str], ...]

    @property
    def key(self) -> str:
        """What the code is: its content, and which function of it."""
        return f"{self.pin}:{self.function}"

    def lines(self) -> Iterator[str]:
        """For people: each file with its digest, and the function with its file."""
        if not self.files:
            yield f"{self.setting}: what the Ray cluster at {self.pin} runs, which executes the work and gets its rows"
        for number, (path, digest) in enumerate(self.files):
            called = f", function {self.function}" if self.function and number == 0 else ""
            yield f"{self.setting}: {path} (sha256 {digest}){called}"


def function_code(setting: str, spec: str, search_path: str | Path, *, what: str) -> Code:
    """The code of a user's function."""
    files = _digested(source_files(spec, search_path, what=what))
    return Code(setting, digest_of(files), spec.rpartition(":")[2], files)


def model_code(setting: str, folder: Path, pin: str) -> Code:
    """The code in a model's folder, which `trust_remote_code` runs."""
    return Code(setting, pin, "", _digested(path for path in loaded_files(folder) if path.suffix == ".py"))


def cluster_code(address: str) -> Code:
    """A Ray cluster that is joined."""
    return Code("cluster.address", address, "", ())


def named_functions(config: Config) -> dict[str, tuple[str, str]]:
    """Setting -> (function, what it is to be) of all functions of the user's that a configuration names."""
    found = {
        f"{section}.function": (source.function, "reward function")
        for section, source in config.reward.sources().items()
        if source.function is not None
    }
    if config.evaluation is not None and config.evaluation.gold is not None:
        found["evaluation.gold"] = (config.evaluation.gold, "reward function")
    if is_own_metric(config.selection.metric):
        found["selection.metric"] = (config.selection.metric, "metric")
    return found


def _digested(paths: Iterable[Path]) -> tuple[tuple[Path, str], ...]:
    return tuple((path, sha256_file(path)) for path in paths)
