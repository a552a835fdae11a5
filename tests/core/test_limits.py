"""What a run needs of the shell and of the machine: what is short is named, and what is enough is not."""

from __future__ import annotations

import resource
import shutil
import socket
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from selfplay.core import limits
from selfplay.core.errors import ResourceError

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine that lacks nothing, whatever runs the tests."""
    monkeypatch.setattr(resource, "getrlimit", lambda number: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 40, 0, 1 << 40))
    monkeypatch.setattr(limits, "SHARED_MEMORY", tmp_path)
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(name, raising=False)


def short() -> dict[str, limits.Shortage]:
    return {found.name: found for found in limits.shortages()}


def test_nothing_is_short() -> None:
    assert short() == {}
    assert limits.describe_shortages() == ""


@pytest.mark.parametrize(
    ("number", "name", "said", "hint"),
    [
        (resource.RLIMIT_NOFILE, "open files", "may have 100 files open; a run needs 1024", "ulimit -n"),
        (resource.RLIMIT_NPROC, "processes", "may have 100 processes and threads; a run needs 1024", "ulimit -u"),
        (resource.RLIMIT_AS, "address space", "may have 0.0 GB of address space; a run needs 68.7 GB", "ulimit -v"),
    ],
)
def test_a_limit_of_the_shell(monkeypatch: pytest.MonkeyPatch, number: int, name: str, said: str, hint: str) -> None:
    unlimited = resource.RLIM_INFINITY
    monkeypatch.setattr(limits.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(resource, "getrlimit", lambda asked: (100 if asked == number else unlimited, unlimited))
    assert short().keys() == {name}
    assert said in short()[name].message
    assert hint in short()[name].hint
    assert not short()[name].is_fatal
    assert f"{name}: a process {said}" in limits.describe_shortages()


def test_root_has_as_many_processes_as_it_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    unlimited = resource.RLIM_INFINITY
    monkeypatch.setattr(limits.os, "geteuid", lambda: 0)
    monkeypatch.setattr(
        resource, "getrlimit", lambda asked: (100 if asked == resource.RLIMIT_NPROC else unlimited, unlimited)
    )
    assert short() == {}


def test_shared_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def usage(path: Path) -> Usage:
        return Usage(1 << 40, 0, 64 << 20 if path == tmp_path else 1 << 40)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    assert short().keys() == {"shared memory"}
    assert "67 MB free" in short()["shared memory"].message


def test_a_tmpdir_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    missing, file = tmp_path / "missing", tmp_path / "file"
    file.touch()
    for folder, why in ((missing, "No such file"), (file, "Not a directory")):
        monkeypatch.setenv("TMPDIR", str(folder))
        found = short()["temporary files"]
        assert found.message.startswith(f"TMPDIR is {folder}, which cannot be used: {why}")
        assert found.is_fatal


def test_a_full_temporary_folder_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 40, 0, 1 << 20))
    monkeypatch.setattr(limits, "SHARED_BYTES", 0)
    assert "/tmp: 1 MB are free" in short()["temporary files"].message
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert f"TMPDIR is {tmp_path}, which cannot be used: 1 MB are free" in short()["temporary files"].message


def full(*args: Any, **kwargs: Any) -> Any:
    raise OSError(28, "No space left on device")


def test_a_quota_that_is_used_up_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits.tempfile, "TemporaryFile", full)
    with pytest.raises(ResourceError, match="/tmp: No space left on device; /var/tmp: No space left") as refused:
        limits.ray_temp()
    assert "TMPDIR" in refused.value.hint


def test_rays_folder_is_short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert limits.ray_temp() == Path("/tmp")
    long = tmp_path / ("x" * 80)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    assert limits.temp_folder() == long
    assert limits.ray_temp() == Path("/tmp")
    # names are counted as bytes
    assert len("/tmp/ÄÄÄÄÄÄÄÄÄ") <= limits.LONGEST_TEMP < len("/tmp/ÄÄÄÄÄÄÄÄÄ".encode())


def test_rays_folder_is_not_where_everybody_may_rename_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(limits, "LONGEST_TEMP", 1000)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for mode, used in ((0o700, tmp_path), (0o1777, tmp_path), (0o777, Path("/tmp"))):
        tmp_path.chmod(mode)
        assert limits.ray_temp() == used


def test_a_loopback_that_is_down_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def down(*args: Any, **kwargs: Any) -> Any:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", down)
    assert "Network is unreachable" in short()["loopback"].message
    assert "ip link set lo up" in short()["loopback"].hint
    assert short()["loopback"].is_fatal
