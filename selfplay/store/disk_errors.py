"""Errors of a disk that cannot store a file: which file, why, the free space, and what to do."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from selfplay.core.errors import SelfplayError
from selfplay.core.paths import nearest_existing


def write_error(path: Path, num_bytes: int, error: OSError) -> SelfplayError:
    """The error of a failed write: file, size, reason, free space, and what to do. `num_bytes` is 0 for a name alone."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR) and not path.parent.is_dir():
        return SelfplayError(
            f"could not write {path}: there is no folder {path.parent}", "Create it, or give another place."
        )
    needed = f" ({num_bytes / 1e6:.1f} MB)" if num_bytes else ""
    return _disk_error(f"could not write {path}{needed}: {error.strerror}", error.errno, path, num_bytes)


DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


def is_disk_error(error: BaseException) -> bool:
    """Whether the disk is the cause of a library's error: by its number or, if the library kept only the text, by that."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in DISK_ERRORS
    return any(os.strerror(code) in str(error) for code in DISK_ERRORS)


def disk_full_error(folder: Path, error: BaseException) -> SelfplayError:
    """The error of a library that could not write into a scratch folder."""
    code = next((code for code in DISK_ERRORS if os.strerror(code) in str(error)), errno.ENOSPC)
    return _disk_error(f"could not write into {folder}: {error}", code, folder)


def _disk_error(what: str, code: int | None, path: Path, num_bytes: int = 0) -> SelfplayError:
    need = f" (this file takes {num_bytes / 1e6:.1f} MB, those that follow more)" if num_bytes else ""
    writable = f"Make {path.parent} writable"
    remedies = {
        errno.ENOSPC: f"Make room on the disk{need}", errno.EDQUOT: f"Make room on your quota{need}",
        errno.EROFS: writable, errno.EACCES: writable, errno.EPERM: writable,
        errno.EIO: "The disk failed (see the kernel's log): move the run's folder to another disk",
    }  # fmt: skip
    free = shutil.disk_usage(nearest_existing(path)).free
    return SelfplayError(
        f"{what}; {free / 1e6:.0f} MB are free there",
        f"Committed work is safe. {remedies.get(code or 0, f'Check {path.parent}')}, then `selfplay resume`.",
    )
