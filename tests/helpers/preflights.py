"""What a preflight does again for each run of the same models, done once in a process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selfplay.inputs import resolve
from selfplay.inputs.models import trial


def check_models_once(patch: pytest.MonkeyPatch) -> None:
    """What a preflight finds out by building a model without its weights is remembered while the model's files stay as they are:
    it would be a fifth of a run on fakes."""
    for name in ("check_policy_loads", "check_reward_model_loads"):
        patch.setattr(resolve, name, _once(getattr(resolve, name)))


def try_no_templates(patch: pytest.MonkeyPatch) -> None:
    """A preflight tries templates in forked processes, which takes long from a process that holds as much as those of the tests.
    tests/inputs/models/test_trial.py is about that; the templates of the other tests end."""
    patch.setattr(trial, "limit_broken", lambda function, seconds, num_bytes: None)


def _once(check: Callable[..., Any]) -> Callable[..., Any]:
    known: dict[Any, Any] = {}

    def checked(folder: Path, **options: Any) -> Any:
        files = [
            (path, status.st_size, status.st_mtime_ns) for path in sorted(folder.iterdir()) for status in [path.stat()]
        ]
        key = (folder, *files, *options.items())
        if key not in known:
            known[key] = check(folder, **options)
        return known[key]

    return checked
