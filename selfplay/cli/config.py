"""`selfplay config show|validate|schema`: shows the settings of a run or a file, checks a file, and lists all settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from selfplay.cli.arguments import Json
from selfplay.core.commands import shell_command
from selfplay.core.escape import escape_terminal
from selfplay.core.terminal import note, write_document, write_json

_File = Annotated[Path, typer.Argument(metavar="FILE", help="YAML file of a run.")]
_Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings, with dots.")]


def show(
    source: Annotated[Path, typer.Argument(metavar="RUN_OR_FILE", help="Directory of a run, or a YAML file.")],
    json_output: Json = False,
) -> None:
    """Show all settings of a run or a file, as YAML.

    Defaults are filled in; of a run, the settings of its newest attempt. `selfplay run` takes the output.
    """
    from selfplay.config.strict_yaml import dump
    from selfplay.inspect.documents.settings import show_document

    # escapes everything beyond ASCII, so it is harmless on a terminal and the same when read back
    write_document(show_document(source), lambda found: dump(found, ascii_only=True).rstrip(), as_json=json_output)


def validate(config: _File, overrides: _Overrides = None, json_output: Json = False) -> None:
    """Check a file and overrides against the schema."""
    from selfplay.config.load import load_config

    settings = load_config(config, overrides or [])
    if json_output:
        write_json({"schema_version": 1, "ok": True, "config": settings.model_dump(mode="json")})
    else:
        check = shell_command("run", config, "--dry-run")
        note(escape_terminal(f"{config} is valid; `{check}` checks models, prompts and memory too"))


def schema(json_output: Json = False) -> None:
    """List every setting.

    Each with its type, default, tag (whether a run that has begun may change it) and description.
    """
    from selfplay.inspect.documents.settings import schema_document

    write_document(schema_document(), lambda found: "\n".join(map(_setting, found["settings"])), as_json=json_output)


def _setting(setting: dict[str, Any]) -> str:
    default = "required" if setting["required"] else f"default {json.dumps(setting['default'])}"
    rule = f", {setting['rule']}" if setting["rule"] else ""
    return f"{setting['name']}: {setting['type']}{rule} ({default}; {setting['tag']})\n    {setting['description']}"
