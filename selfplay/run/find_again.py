"""Finding the inputs of a run that has begun: in their old places, in those given now, or where they moved with the project."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from selfplay.config.diff import changes
from selfplay.config.named_files import METRIC, TEMPLATE, is_function
from selfplay.config.schema import Config
from selfplay.core.commands import shell_command
from selfplay.core.errors import MissingInputError
from selfplay.inputs.pinning import Pinned, pin
from selfplay.inputs.places import Moves
from selfplay.store.run import Store
from selfplay.store.run_state import recorded_folder

NEW_PLACE = "NEW-PLACE"


def find_again(store: Store, before: Config, after: Config, search_path: Path, command: Sequence[object]) -> Pinned:
    """The inputs of a run, found and digested; nothing of them is run. `after` are the settings `before` with the changes that
    `command` (its arguments) asks for. Raises MissingInputError with all that is missing and the whole command to give."""
    moves = Moves(tuple(_moves(store, before, after, search_path)))
    try:
        return pin(after, search_path, store.revisions(), moves=moves, pins=store.config_json("pins.json", dict))
    except MissingInputError as error:
        values = {setting: _new_place(after, setting) for setting in error.settings}
        kept = [word for word in command if str(word).partition("=")[0] not in values]
        whole = shell_command(*kept, *(f"{setting}={value}" for setting, value in values.items()))
        error.hint = f"If they have moved, give their new places (the content is compared):\n     {whole}"
        raise


def _moves(store: Store, before: Config, after: Config, search_path: Path) -> Iterator[tuple[Path, Path]]:
    """Old and new place of the run itself, and of what the command gives a new place."""
    folder = recorded_folder(store)
    if folder is not None and folder != store.layout.root:
        yield folder, store.layout.root
    for change in changes(before, after):
        if change.tag == "content" and isinstance(change.before, str) and isinstance(change.after, str):
            old, new = (_place(change.name, value, search_path) for value in (change.before, change.after))
            if old is not None and new is not None:
                yield old, new


def _place(setting: str, value: str, search_path: Path) -> Path | None:
    """The file or folder that a setting names: of `file.py:function` and `module:function` the file. None for a hub name.
    Paths of modules, metrics and templates may be relative to the configuration's folder `search_path`."""
    path, is_file, _ = value.partition(".py:")
    if is_file:
        path += ".py"
    elif is_function(setting):
        path = value.partition(":")[0].replace(".", "/") + ".py"
    elif setting not in (METRIC, TEMPLATE) and not Path(path).is_absolute():
        return None
    return Path(search_path, Path(path).expanduser())


def _new_place(config: Config, setting: str) -> str:
    """What to write for a setting: of a function, its file keeps its name."""
    value = config.model_dump()
    for name in setting.split("."):
        value = value[name]
    path, colon, function = str(value).rpartition(":")
    return f"{NEW_PLACE}/{Path(path).name}:{function}" if colon and path.endswith(".py") else NEW_PLACE
