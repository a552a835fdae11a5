"""The console script `selfplay`: its commands, and the one place where an error becomes a message and an exit code.

The command modules import their dependencies inside their functions, so that importing them all is cheap. To have typer build
all commands still takes as long as some of them run, so a call of one command makes only that one.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import os
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any

import typer

from selfplay.core.ctrl_c import remember_ctrl_c
from selfplay.core.errors import ConfigError, SelfplayError
from selfplay.core.escape import escape_terminal
from selfplay.core.redaction import redact
from selfplay.core.terminal import flush_or_discard, note, writing_stdout
from selfplay.core.version import __version__

# rich's help and tracebacks would add a third to the start-up time, and would interpret brackets in our texts as markup
_PLAIN: dict[str, Any] = {"rich_markup_mode": None, "pretty_exceptions_enable": False}
_HELP = {"help_option_names": ["-h", "--help"]}

# in the order of `selfplay --help`; a command is named after its module, and is its `command`
_MODULES = (
    "quickstart", "run", "resume", "status", "rounds", "show", "pairs", "pair", "diff", "sql", "view", "compare", "select",
    "metrics", "export", "report", "verify", "fork", "gc", "doctor",
)  # fmt: skip
_OF_CONFIG = ("show", "validate", "schema")
COMMANDS = (*_MODULES, "config")
# Python collects garbage after so many new objects; its own default is 700
_NUM_OBJECTS = 50_000


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with every failure turned into a message on stderr and an exit code."""

    @functools.wraps(command)
    def run_it(*args: Any, **kwargs: Any) -> None:
        try:
            _refuse_lost_folder()
            command(*args, **kwargs)
            with writing_stdout():
                sys.stdout.flush()
        except SelfplayError as error:
            _explain(error.message, error.hint)
            raise SystemExit(error.exit_code) from None
        except BrokenPipeError:  # the reader of our output has enough of it (`| head`)
            raise SystemExit(0) from None
        except KeyboardInterrupt:
            raise SystemExit(130) from None
        except Exception as error:
            if isinstance(error, UnicodeEncodeError) and error.encoding == "utf-8":
                # a name on the disk or on the command line, which Python holds all the same
                _explain(f"{error.object[:200]!r} is not UTF-8", "Rename the file or folder: names are kept as UTF-8.")
                raise SystemExit(2) from None
            if isinstance(error, OSError) and error.filename is not None:  # of the machine, not of selfplay
                _explain(f"{error.filename}: {error.strerror}", "Check that path and this user's permissions there.")
                raise SystemExit(1) from None
            last = str(error).strip().splitlines()
            said = f"{type(error).__name__}: {last[0]}" if last else type(error).__name__
            damaged = "If a file may be damaged, `selfplay verify RUN --deep` finds it."
            _explain(f"unexpected {said}", f"This is a bug in selfplay: SELFPLAY_DEBUG=1 shows where. {damaged}")
            raise SystemExit(1) from None
        finally:
            flush_or_discard()

    return run_it


def _refuse_lost_folder() -> None:
    try:
        Path.cwd()
    except FileNotFoundError:
        hint = "Change to a folder that exists (cd), and give the command again."
        raise ConfigError("the working directory of this shell was deleted", hint) from None


def _explain(message: str, hint: str) -> None:
    if os.environ.get("SELFPLAY_DEBUG") == "1":
        import traceback

        note(_shown(traceback.format_exc()).rstrip())
    note(f"error: {_shown(message)}")
    if hint:
        note(f"  -> {_shown(hint)}")


def _shown(text: str) -> str:
    return escape_terminal(redact(text), lines=True)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"selfplay {__version__}")
        raise typer.Exit


def _selfplay(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Iterative self-play data generation: sample, score, keep the pairs of highest alignment potential, train, repeat.

    Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 locked by another driver, 4 drift, 5 corruption,
    130 interrupted, 143 ended by SIGTERM (both safe to resume).
    """


def make_app(
    names: Collection[str] = COMMANDS, made: Callable[[Callable[..., None]], Callable[..., None]] = guarded
) -> typer.Typer:
    """The app with these of its commands, each as `made` gives it."""
    # the options that install completion belong to no command, and typer would read them at each call of one
    app = typer.Typer(no_args_is_help=True, add_completion=len(names) > 1, context_settings=_HELP, **_PLAIN)
    app.callback()(_selfplay)
    for name in _MODULES:
        if name in names:
            app.command(name)(made(importlib.import_module(f"selfplay.cli.{name}").command))
    if "config" in names:
        config = importlib.import_module("selfplay.cli.config")
        of_config = typer.Typer(
            no_args_is_help=True, add_completion=False, help="Show, check and list settings.", **_PLAIN
        )
        for name in _OF_CONFIG:
            of_config.command(name)(made(getattr(config, name)))
        app.add_typer(of_config, name="config")
    return app


def _only_named(command: Callable[..., None]) -> Callable[..., None]:
    """What `selfplay --help` shows of a command. To have typer read the parameters of all commands would be most of its time."""

    def shown() -> None: ...

    shown.__doc__ = command.__doc__
    return shown


def __getattr__(name: str) -> typer.Typer:
    """`app`, with all commands: for programs that look for a typer app (`typer utils docs`) and for tests. `main` needs none."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return make_app()


def open_streams() -> None:
    """Open standard streams that the caller closed (`>&-`) on /dev/null. Otherwise the next files that are opened, the run's
    lock among them, would get their numbers, and libraries would print into those files."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r"))  # noqa: SIM115 - for the life of the process


def main() -> None:
    """Entry point of the console script."""
    open_streams()
    remember_ctrl_c()
    # imports make next to no garbage, and each collection walks through all that they hold: a tenth of the time of a start
    gc.set_threshold(_NUM_OBJECTS)
    # pydantic would look through all installed packages for plugins, a tenth of the time of a short command
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    asked = sys.argv[1:2]
    try:
        # what is no command is an option of selfplay itself, or an error that names all commands
        if sys.argv[1:] in (["--help"], ["-h"]):
            app = make_app(made=_only_named)
        else:
            app = make_app(asked if asked and asked[0] in COMMANDS else COMMANDS)
        code = app(prog_name="selfplay", standalone_mode=False)
    except typer.TyperException as error:  # an error of usage
        with contextlib.suppress(OSError):  # in standalone mode the exit code would be 1 where stderr has no reader
            error.show()  # type: ignore[attr-defined] # all exceptions that typer itself raises have it
        code = error.exit_code
    except SystemExit as error:
        code = error.code
    finally:
        flush_or_discard()
    local_ray = sys.modules.get("selfplay.execution.ray.local_ray")
    if local_ray is not None and local_ray.is_starting():
        os._exit(code or 0)
    sys.exit(code)
