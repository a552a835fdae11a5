"""Runs that somebody else hands over: nothing of their code runs before it is compared, listed and trusted."""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import selfplay
from selfplay import api
from selfplay.compare.arms import metric_arm
from selfplay.compare.main import compare
from selfplay.compare.settings import Wanted
from selfplay.core.errors import ConfigError, CorruptionError, DriftError
from selfplay.execution.progress import Reporter
from selfplay.store.run import Store
from tests.helpers.fakes import Fakes
from tests.helpers.sealing import rewrite

WriteConfig = Callable[..., Path]

# setting -> (sections of the configuration, the file whose function it names)
FUNCTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "reward.function": ({"reward": {"model": None, "function": "mine.py:reward"}}, "mine.py"),
    "reward.parts.short.function": (
        {"reward": {"model": None, "parts": {"short": {"function": "mine.py:reward"}}}},
        "mine.py",
    ),
    "evaluation.gold": ({"evaluation": {"gold": "mine.py:reward"}}, "mine.py"),
    "selection.metric": ({"selection": {"metric": "mine.py:short"}}, "mine.py"),
}
ALL = pytest.mark.parametrize("setting", FUNCTIONS)


def write_function(path: Path, mark: Path) -> None:
    """A file that leaves `mark` when it is imported, and imports another one beside it that leaves `mark`.helper."""
    helper = f"{path.stem}_helper_{path.parent.name.replace('-', '_')}"
    path.with_name(f"{helper}.py").write_text(f"open({str(mark) + '.helper'!r}, 'a').write('x')\n")
    path.write_text(
        f"import {helper}\nopen({str(mark)!r}, 'a').write('x')\n"
        "def reward(prompt, response):\n    return float(len(response))\n"
        "def short(reward_chosen):\n    return reward_chosen\n"
    )


class Begun:
    """A run of one round with one function, begun here."""

    def __init__(self, setting: str, write_config: WriteConfig, folder: Path) -> None:
        sections, file = FUNCTIONS[setting]
        self.mark, self.file, self.root = folder / "RAN", folder / file, folder / "run"
        write_function(self.file, self.mark)
        self.said = io.StringIO()
        reporter = Reporter(self.said)
        config = write_config(rounds=1, report={"every": 0}, **sections)
        selfplay.start(config, run_dir=self.root, reporter=reporter, workers=Fakes())
        self.forget_imports()

    def forget_imports(self) -> None:
        for path in self.mark.parent.glob(f"{self.mark.name}*"):
            path.unlink()
        for name in [name for name in sys.modules if "mine_helper" in name]:
            del sys.modules[name]

    @property
    def has_run(self) -> bool:
        return self.mark.exists() or self.mark.with_name("RAN.helper").exists()


@pytest.fixture
def begin(write_config: WriteConfig, tmp_path: Path) -> Callable[[str], Begun]:
    return lambda setting: Begun(setting, write_config, tmp_path)


def other_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From here on the user is another one, or on another machine."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other-state"))


@ALL
def test_code_of_ones_own_run_needs_no_consent_and_that_of_a_received_run_does(
    begin: Callable[[str], Begun], setting: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = begin(setting)
    for file in (run.file, *run.file.parent.glob("mine_helper*.py")):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert f"code that will run: {setting}: {file} (sha256 {digest})" in run.said.getvalue()
    copied = run.root.with_name("copied")
    run.root.rename(copied)
    said = io.StringIO()
    selfplay.resume(copied, rounds=2, reporter=Reporter(said), workers=Fakes())
    assert run.has_run and f"code that will run: {setting}: {run.file}" in said.getvalue()
    assert Store.open(copied).rounds() == [0, 1, 2]
    copied.rename(run.root)

    run.forget_imports()
    other_user(monkeypatch, tmp_path)
    calls: list[Callable[..., object]] = [
        lambda **more: selfplay.resume(run.root, rounds=3, reporter=Reporter(quiet=True), workers=Fakes(), **more),
        lambda **more: api.plan_fork(run.root, from_round=0, run_dir=tmp_path / "fork", **more),
    ]
    for call in calls:
        with pytest.raises(ConfigError, match="was not started by you on this machine") as asked:
            call()
        assert not run.has_run
        assert (
            f"{setting}: {run.file} (sha256 {hashlib.sha256(run.file.read_bytes()).hexdigest()})" in asked.value.message
        )
        assert "mine_helper" in asked.value.message
        assert asked.value.hint.endswith("--trust-code")
    calls[1](trust_code=True)
    assert run.has_run
    with pytest.raises(ConfigError, match="was not started by you"):  # a plan does not make it this user's run
        calls[0]()
    calls[0](trust_code=True)
    calls[0]()  # once is enough


def test_a_changed_function_in_a_run_of_ones_own_is_drift_and_does_not_run(begin: Callable[[str], Begun]) -> None:
    run = begin("reward.function")
    run.file.write_text(f"open({str(run.mark)!r}, 'a').write('x')\n{run.file.read_text()}")
    with pytest.raises(DriftError, match=r"the content of reward\.function has changed"):
        selfplay.resume(run.root, rounds=2, reporter=Reporter(quiet=True), workers=Fakes())
    assert not run.has_run


def test_a_run_of_ones_own_that_comes_back_with_other_code_asks(begin: Callable[[str], Begun], tmp_path: Path) -> None:
    """Settings, pins and seals are forged, so that all of them fit the new function."""
    run = begin("evaluation.gold")
    root, evil = run.root, run.root / "notes" / "evil.py"
    evil.parent.mkdir()
    evil.write_text(f"open({str(run.mark)!r}, 'a').write('x')\ndef reward(prompt, response):\n    return 1.0\n")
    rewrite(root / "attempts/0001/attempt.json", lambda d: d["config"]["evaluation"].update(gold=f"{evil}:reward"))
    pins = json.loads((root / "config/pins.json").read_text())
    pins["evaluation.gold"] = hashlib.sha256(evil.read_bytes()).hexdigest()
    (root / "config/pins.json").write_text(json.dumps(pins))
    digest = hashlib.sha256((root / "config/pins.json").read_bytes()).hexdigest()
    rewrite(root / "RUN.json", lambda document: document["config"].update({"pins.json": digest}))
    with pytest.raises(ConfigError, match="was started by you with other code") as asked:
        selfplay.resume(root, rounds=2, reporter=Reporter(quiet=True), workers=Fakes())
    assert str(evil) in asked.value.message and not run.mark.exists()


def test_another_function_of_the_same_file_is_other_code(begin: Callable[[str], Begun]) -> None:
    run = begin("evaluation.gold")
    forged = f"{run.file}:short"
    rewrite(run.root / "attempts/0001/attempt.json", lambda d: d["config"]["evaluation"].update(gold=forged))
    with pytest.raises(ConfigError, match="was started by you with other code") as asked:
        selfplay.resume(run.root, rounds=2, reporter=Reporter(quiet=True), workers=Fakes())
    assert ", function short" in asked.value.message and not run.has_run


def test_a_run_without_code_asks_nothing(
    write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = Reporter(quiet=True)
    selfplay.start(write_config(rounds=1), run_dir=tmp_path / "run", reporter=quiet, workers=Fakes())
    other_user(monkeypatch, tmp_path)
    selfplay.resume(tmp_path / "run", rounds=2, reporter=quiet, workers=Fakes())
    write_function(tmp_path / "mine.py", tmp_path / "RAN")
    for _ in range(2):  # whoever continues it does not make it a run of one's own
        with pytest.raises(ConfigError, match="was not started by you"):
            api.plan_fork(
                tmp_path / "run", from_round=0, run_dir=tmp_path / "fork",
                overrides=[f"selection.metric={tmp_path}/mine.py:short"],
            )  # fmt: skip
        selfplay.resume(tmp_path / "run", overrides=["report.every=0"], reporter=quiet, workers=Fakes())
    assert not (tmp_path / "RAN").exists()


def test_a_received_run_asks_before_it_joins_the_cluster_that_it_names(
    write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever controls a cluster decides what runs there, and gets texts, weights and the secrets of its nodes."""
    run, quiet = tmp_path / "run", Reporter(quiet=True)

    def resume(**more: Any) -> None:
        selfplay.resume(run, reporter=quiet, workers=Fakes(), **more)

    selfplay.start(
        write_config(rounds=1, prompts={"per_round": 10}, cluster={"address": "10.0.0.5:6379"}),
        run_dir=run,
        reporter=quiet,
        workers=Fakes(),
    )
    resume(rounds=2)
    other_user(monkeypatch, tmp_path)
    with pytest.raises(ConfigError, match=r"not started by you .*\n.*cluster.address: .*10\.0\.0\.5:6379"):
        resume(rounds=3)
    with pytest.raises(ConfigError, match="not started by you"):
        api.plan_fork(run, from_round=0, run_dir=tmp_path / "fork")
    resume(rounds=3, **{"cluster.address": None})
    rewrite(run / "attempts/0003/attempt.json", lambda d: d["config"]["cluster"].update(address="10.0.0.6:6379"))
    for given in ({}, {"cluster.address": "10.0.0.7:6379"}):  # no override made it the user's own run
        with pytest.raises(ConfigError, match="not started by you"):
            resume(rounds=4, **given)
    resume(rounds=4, trust_code=True)
    with pytest.raises(
        ConfigError, match=r"other code.*\n.*10\.0\.0\.8"
    ):  # the run is the user's now, this file is not
        rewrite(run / "attempts/0004/attempt.json", lambda d: d["config"]["cluster"].update(address="10.0.0.8:6379"))
        resume(rounds=5)
    resume(rounds=5, **{"cluster.address": "10.0.0.7:6379"})
    resume(rounds=6)  # an address that the user has given is not asked for again


def test_a_function_that_the_fork_itself_names_is_the_users_own_choice(
    write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = Reporter(quiet=True)
    selfplay.start(write_config(rounds=1), run_dir=tmp_path / "run", reporter=quiet, workers=Fakes())
    (tmp_path / "mine.py").write_text("def short(reward_chosen):\n    return reward_chosen\n")
    named = {"from_round": 0, "run_dir": tmp_path / "fork", "overrides": [f"selection.metric={tmp_path}/mine.py:short"]}
    api.plan_fork(tmp_path / "run", **named)
    other_user(monkeypatch, tmp_path)
    with pytest.raises(ConfigError, match="was not started by you"):
        api.plan_fork(tmp_path / "run", **named)


def test_a_received_comparison_asks(write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "RAN"
    write_function(tmp_path / "mine.py", mark)
    config = write_config(rounds=1, evaluation={"gold": "mine.py:reward"})
    wanted = Wanted(configs=(config,), arms=(metric_arm("random"),))
    out, quiet = tmp_path / "out", Reporter(quiet=True)
    compare(wanted, out, workers=Fakes(), reporter=quiet)
    compare(Wanted(), out, workers=Fakes(), reporter=quiet)
    other_user(monkeypatch, tmp_path)
    mark.unlink()
    (tmp_path / "mine.py").rename(tmp_path / "away.py")  # to show what is finished takes none of its inputs
    for dry_run in (True, False):
        compare(Wanted(), out, dry_run=dry_run, workers=Fakes(), reporter=quiet)
    assert not mark.exists()
    (tmp_path / "away.py").rename(tmp_path / "mine.py")
    for dry_run in (True, False):  # to look at it did not make it this user's
        with pytest.raises(ConfigError, match="was not started by you on this machine") as asked:
            compare(Wanted(num_seeds=2), out, dry_run=dry_run, workers=Fakes(), reporter=quiet)
        assert "evaluation.gold: " in asked.value.message and not mark.exists()
    compare(Wanted(num_seeds=2), out, trust_code=True, workers=Fakes(), reporter=quiet)
    assert mark.exists()
    compare(Wanted(num_seeds=3), out, workers=Fakes(), reporter=quiet)


def test_a_run_of_a_comparison_cannot_bring_code_of_its_own(write_config: WriteConfig, tmp_path: Path) -> None:
    config = write_config(rounds=1)
    wanted = Wanted(configs=(config,), arms=(metric_arm("random"),))
    out, quiet = tmp_path / "out", Reporter(quiet=True)
    compare(wanted, out, workers=Fakes(), reporter=quiet)
    evil = out / "evil.py"
    evil.write_text(f"open({str(tmp_path / 'RAN')!r}, 'a').write('x')\ndef reward(prompt, response):\n    return 1.0\n")
    (arm,) = out.glob("runs/*/random")
    rewrite(arm / "attempts/0001/attempt.json", lambda d: d["config"].update(rounds=2))
    rewrite(arm / "attempts/0001/attempt.json", lambda d: d["config"]["evaluation"].update(gold=f"{evil}:reward"))
    compare(Wanted(rounds=2), out, workers=Fakes(), reporter=quiet)  # its settings are those of the comparison
    assert not (tmp_path / "RAN").exists()


def test_a_policy_of_a_round_contains_no_other_code_than_the_first(run_copy: Path) -> None:
    """With trust_remote_code the code in a trained policy's folder runs, which its training copied there."""
    from types import SimpleNamespace

    from selfplay.inputs.user_code.listing import Code
    from selfplay.run.code_trust import check_policy_code

    folder = run_copy / "rounds/001/train/policy"
    code = folder / "modeling_own.py"
    code.write_text("pass\n")
    digest = hashlib.sha256(b"pass\n").hexdigest()

    def listed(document: dict[str, Any]) -> None:
        document["files"].append({"path": "policy/modeling_own.py", "num_bytes": 5, "sha256": digest, "rows": None})
        document["files"].sort(key=lambda entry: entry["path"])

    rewrite(run_copy / "rounds/001/train/.COMMIT.json", listed)

    def pinned(sha256: str, *, trust: bool = True) -> Any:
        piece = Code("policy.model", "pin", "", ((Path("/hub/modeling_own.py"), sha256),))
        policy = SimpleNamespace(trust_remote_code=trust)
        return SimpleNamespace(config=SimpleNamespace(policy=policy), code=(piece,))

    check_policy_code(Store.open(run_copy), pinned(digest))
    check_policy_code(Store.open(run_copy), pinned("0" * 64, trust=False))
    with pytest.raises(CorruptionError, match=r"modeling_own\.py of 001/train is not the code"):
        check_policy_code(Store.open(run_copy), pinned("0" * 64))
