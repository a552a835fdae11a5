"""Where a function's file is: found without running anything."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from selfplay.core.errors import ConfigError
from selfplay.inputs.user_code.loading import source_digest, source_file, source_files


def test_finding_a_module_runs_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `importlib.util.find_spec` would: it imports the packages around a module."""
    installed, base = tmp_path / "site", tmp_path / "base"
    base.mkdir()
    for package in ("own_outer", "own_outer/inner"):
        (installed / package).mkdir(parents=True)
        (installed / package / "__init__.py").write_text(f"open({str(tmp_path / 'RAN')!r}, 'a')\n")
    (installed / "own_outer/inner/rewards.py").write_text("def reward(prompt, response): return 1.0\n")
    # namespace packages have no __init__.py
    (installed / "own_space/inner").mkdir(parents=True)
    (installed / "own_space/inner/rewards.py").write_text("def reward(prompt, response): return 1.0\n")
    monkeypatch.syspath_prepend(installed)
    for package in ("own_outer", "own_space"):
        spec = f"{package}.inner.rewards:reward"
        assert source_file(spec, base, what="reward function") == installed / package / "inner/rewards.py"
        assert len(source_digest(spec, base, what="reward function")) == 64
        assert package not in sys.modules
    assert source_file("own_outer.inner:x", base, what="metric") == installed / "own_outer/inner/__init__.py"
    assert not (tmp_path / "RAN").exists()
    for missing in ("own_outer.none:x", "own_outer.inner.rewards.deeper:x", "own_none.inner:x", "own_space:x"):
        with pytest.raises(ConfigError, match="no module"):
            source_file(missing, base, what="metric")


def test_the_files_that_a_function_runs(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("X = 1\n")
    (tmp_path / "deeper.py").write_text("import beside\n")
    (tmp_path / "mine.py").write_text("def reward(p, r):\n    import deeper\n    return 0.0\n")
    (tmp_path / "other.py").write_text("")
    files = source_files("mine.py:reward", tmp_path, what="reward function")
    assert [path.name for path in files] == ["mine.py", "deeper.py", "beside.py"]
