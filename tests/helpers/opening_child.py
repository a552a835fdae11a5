"""A process that runs opening commands under an audit hook and reports what they did outside the rule (docs/security.md).

Standard input: a list of jobs, each with `name`, `commands` (lists of arguments; "view" asks the viewer for pages), `run`,
`outside` (what must not be opened) and `writes` (places where the commands may write). Standard output: a list of [job, command,
what].

The hook sees what Python does. What libraries in C++ open outside is seen by inotify.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

CHANGES = {
    "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.chown", "os.utime", "os.truncate",
    "shutil.rmtree", "shutil.move", "shutil.copyfile", "tempfile.mkstemp", "tempfile.mkdtemp",
}  # fmt: skip
STARTS = {
    "socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request",
    "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "pickle.find_class",
    "webbrowser.open",
}  # fmt: skip
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
IN_ACCESS, IN_MODIFY, IN_ATTRIB, IN_OPEN, IN_CREATE, IN_DELETE, IN_MOVED = 0x1, 0x2, 0x4, 0x20, 0x100, 0x200, 0xC0


class Watch:
    """What is opened or changed in a folder and the folders in it, by anyone."""

    def __init__(self, root: str) -> None:
        libc = ctypes.CDLL(None)
        self._descriptor = libc.inotify_init1(os.O_NONBLOCK)
        mask = IN_ACCESS | IN_MODIFY | IN_ATTRIB | IN_OPEN | IN_CREATE | IN_DELETE | IN_MOVED
        for folder, _, _ in os.walk(root):
            assert libc.inotify_add_watch(self._descriptor, folder.encode(), mask) >= 0
        self.seen()

    def seen(self) -> bool:
        try:
            return bool(os.read(self._descriptor, 1 << 16))
        except BlockingIOError:
            return False

    def close(self) -> None:
        os.close(self._descriptor)


class Hook:
    """Collects what is not allowed while `job` is set."""

    def __init__(self) -> None:
        self.job: dict[str, Any] | None = None
        self.found: list[str] = []

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self.job is None:
            return
        if event == "open":
            path, _, flags = args
            if isinstance(flags, int) and flags & WRITING and isinstance(path, (str, bytes, os.PathLike)):
                self._write(event, path)
        elif event in CHANGES:
            for path in args[:2]:
                if isinstance(path, (str, bytes, os.PathLike)):
                    self._write(event, path)
        elif event in STARTS:
            self.found.append(f"{event} {args!r}"[:200])
        elif event == "exec" and getattr(args[0], "co_filename", "").startswith(self.job["run"]):
            self.found.append(f"runs {args[0].co_filename}")

    def _write(self, event: str, path: Any) -> None:
        assert self.job is not None
        where = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - no link is resolved
        allowed = [*self.job["writes"], "/dev/null"]
        if not any(where == place or where.startswith(f"{place}{os.sep}") for place in allowed):
            self.found.append(f"{event} {where}")


def pages(run: Path) -> None:
    """The pages of a run."""
    from tests.helpers.viewing import client_of

    client = client_of(run)
    for page in ("", "/round/1", "/round/1/pairs", "/against"):
        client.get(f"/run/{quote(run.name)}{page}")


def main() -> None:
    import typer.testing

    from selfplay.cli.main import app

    typer.testing._get_command = functools.cache(typer.testing._get_command)  # see tests/conftest.py
    jobs, hook, report = json.load(sys.stdin), Hook(), []
    sys.addaudithook(hook)
    for job in jobs:
        os.chdir(job["run"])
        watch = Watch(job["outside"])
        for command in job["commands"]:
            hook.found, hook.job = [], job
            said = ""
            try:
                if command[0] == "view":
                    pages(Path(job["run"]))
                else:
                    done = typer.testing.CliRunner().invoke(app, command)
                    said = done.stdout + done.stderr
            except Exception as error:  # reported like anything else that should not be
                hook.found.append(f"raised {type(error).__name__}: {error}")
            hook.job = None
            if watch.seen():
                hook.found.append("opened or changed something outside")
            if not all(character.isprintable() or character == "\n" for character in said):
                hook.found.append(f"sends to the terminal {said[:300]!r}")
            if "unexpected" in said or "Traceback" in said:
                hook.found.append(f"said {said[:300]}")
            report += [[job["name"], " ".join(command[:2]), found] for found in hook.found]
        watch.close()
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
