"""The code that a run executes: listed before it is loaded; it needs `--trust-code` if the user did not start the run.

A configuration is a program: it names functions of a user, and `trust_remote_code` runs a model's own code. Whoever starts a
run names its configuration. Whoever continues one that was handed over may not know what is in it, so `resume`, `fork` and a
continued `compare` ask for `--trust-code`, unless this user has begun the run with the same code (`store/begun.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import selfplay
from selfplay.core.commands import shell_command
from selfplay.core.errors import ConfigError, CorruptionError
from selfplay.inputs.pinning import Pinned
from selfplay.inputs.user_code.listing import Code
from selfplay.store.begun import code_begun, remember
from selfplay.store.layout import stage_name
from selfplay.store.run import Store

# the judge of the quickstart, which lies in this package: rules on text, without effects
_OURS = ("gold", [Path(selfplay.__file__).resolve().parent / "quickstart" / "tasks.py"])


def announce(code: Iterable[Code], say: Callable[[str], None]) -> None:
    """Say each file of the code that will run, with its sha256."""
    for piece in code:
        for line in piece.lines():
            say(f"code that will run: {line}")


def require_trust(
    name: str,
    shown: str | Path,
    code: Iterable[Code],
    command: Sequence[object],
    *,
    named: Sequence[str] = (),
    trust_code: bool,
) -> None:
    """Raise ConfigError with the list of the code where this user has not begun `name` (the id of a run) with it.

    `shown` is what messages call the run, `command` the arguments that would run the code, to which the hint adds the flag.
    `named` are the `key=value` overrides of the command: what they name is the user's own choice in a run that is the user's.
    """
    begun = code_begun(name)
    unknown = [
        piece
        for piece in code
        if (piece.function, [path for path, _ in piece.files]) != _OURS
        and (begun is None or (piece.key not in begun and not _is_named(piece.setting, named)))
    ]
    if trust_code or not unknown:
        return
    lines = "\n    ".join(line for piece in unknown for line in piece.lines())
    why = "was not started by you on this machine" if begun is None else "was started by you with other code"
    raise ConfigError(
        f"{shown} {why}. It would run this code, which could do anything that you can:\n    {lines}",
        "Read these files. If you trust them, and the run's other files beside them:\n     "
        + shell_command(*command, "--trust-code"),
    )


def note_begun(name: str, code: Iterable[Code], say: Callable[[str], None]) -> None:
    """Note that this user has begun a run, or trusts it, with this code."""
    if problem := remember(name, [piece.key for piece in code]):
        say(
            f"note: a later resume will ask for --trust-code, because this run could not be recorded as yours: {problem}"
        )


def note_code(name: str, code: Iterable[Code], say: Callable[[str], None], *, trust_code: bool) -> None:
    """Note the code that this user continues a run with. Whose run it is does not change, except by `trust_code`: a run of
    somebody else that names no code can be continued without a question, and stays somebody else's."""
    begun, code = code_begun(name), tuple(code)
    if trust_code or (begun is not None and not {piece.key for piece in code} <= begun):
        note_begun(name, code, say)


def check_policy_code(store: Store, pinned: Pinned) -> None:
    """Raise CorruptionError where a policy of the run contains other code than the pinned one, which its training copied. Only
    asked where the code of the policy's folder is run."""
    ours = {
        path.name: digest for piece in pinned.code if piece.setting == "policy.model" for path, digest in piece.files
    }
    if not pinned.config.policy.trust_remote_code:
        return
    for number in store.rounds():
        if number == 0 or not store.is_committed(number, "train"):
            continue
        for entry in store.commit_of(number, "train").files:
            path = Path(entry.path)
            if path.suffix == ".py" and ours.get(path.name) != entry.sha256:
                raise CorruptionError(
                    f"{store.layout.stage(number, 'train') / path} of {stage_name(number, 'train')} is not the code of the "
                    "policy that the run was started with",
                    "It would run as the policy's own code: restore the run from a backup.",
                )


def _is_named(setting: str, overrides: Sequence[str]) -> bool:
    """Whether an override names what a setting names, or switches its code on."""
    keys = [override.partition("=")[0].strip() for override in overrides]
    switch = setting.rpartition(".")[0] + ".trust_remote_code"
    return any(setting == key or setting.startswith(f"{key}.") or key == switch for key in keys)
