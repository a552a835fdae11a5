"""Finding the inputs of a run that has begun: in their old places, in those given now, or where they moved with the project."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from selfplay.config.diff import changes
from selfplay.config.schema import Config
from selfplay.core.commands import shell_command
from selfplay.core.errors import MissingInputError
from selfplay.inputs.pinning import Pinned, pin
from selfplay.inputs.places import Moves
from selfplay.store.run import Store
from selfplay.store.run_state import recorded_folders

NEW_PLACE = "NEW-PLACE"


def find_again(store: Store, before: Config, after: Config, search_path: Path, command: Sequence[object]) -> Pinned:
    """The inputs of a run, found and digested; nothing of them is run. `after` are the settings `before` with the changes that
    `command` (its arguments) asks for. Raises MissingInputError with all that is missing and the whole command to give."""
    moves = Moves(tuple(_moves(store, before, after)))
    try:
        return pin(after, search_path, store.revisions(), moves=moves, pins=store.config_json("pins.json", dict))
    except MissingInputError as error:
        values = {setting: _new_place(after, setting) for setting in error.settings}
        kept = [word for word in command if str(word).partition("=")[0] not in values]
        whole = shell_command(*kept, *(f"{setting}={value}" for setting, value in values.items()))
        error.hint = f"If they have moved, give their new places (the content is compared):\n     {whole}"
        raise


def moved_search_path(store: Store, recorded: Path) -> Path:
    """The folder of the run's configuration: where it was, or else where it moved together with the run."""
    return Moves(tuple(_moved(recorded_folders(store)[:1], store))).folder(recorded)


def _moves(store: Store, before: Config, after: Config) -> Iterator[tuple[Path, Path]]:
    """Old and new place of the run itself, and of what the command gives a new place."""
    yield from _moved(recorded_folders(store)[-1:], store)  # the newest attempt has recorded the places in force
    for change in changes(before, after):
        if change.tag == "content" and isinstance(change.before, str) and isinstance(change.after, str):
            old, new = _path(change.before), _path(change.after)
            if old.is_absolute() and new.is_absolute():
                yield old, new


def _moved(folders: Sequence[Path], store: Store) -> Iterator[tuple[Path, Path]]:
    """From where the run was to where it is."""
    return ((folder, store.layout.root) for folder in folders if folder != store.layout.root)


def _path(value: str) -> Path:
    """The path of a place: of `file.py:function` the file."""
    path, found, _ = value.partition(".py:")
    return Path(path + ".py" if found else path)


def _new_place(config: Config, setting: str) -> str:
    """What to write for a setting: of a function, its file keeps its name."""
    value = config.model_dump()
    for name in setting.split("."):
        value = value[name]
    path, colon, function = str(value).rpartition(":")
    return f"{NEW_PLACE}/{Path(path).name}:{function}" if colon and path.endswith(".py") else NEW_PLACE
