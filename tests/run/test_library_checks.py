from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from selfplay.core.errors import ModelError
from selfplay.run import library_checks
from selfplay.run.library_checks import SERVED, check_engine
from tests.helpers.families import FAMILIES


@dataclasses.dataclass(frozen=True)
class SomeInputs:
    policy: Any
    warnings: tuple[str, ...] = ("before",)


def asked(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    kind: str,
    answer: tuple[str, str] | None,
    *,
    trust: bool = False,
    address: str | None = None,
) -> Any:
    """The inputs after the check; `answer`: what vLLM says, None where it must not be asked."""
    (folder / "config.json").write_text(f'{{"model_type": "{kind}"}}')

    def ask(module: str, question: dict[str, Any]) -> list[str]:
        assert answer is not None and question == {"folder": str(folder), "engine": {}}
        return list(answer)

    monkeypatch.setattr(library_checks, "ask_library", ask)
    monkeypatch.setattr(library_checks, "worker_specs", lambda *_: {"sampler": SimpleNamespace(kwargs={"engine": {}})})
    policy, cluster = SimpleNamespace(trust_remote_code=trust), SimpleNamespace(address=address)
    config: Any = SimpleNamespace(policy=policy, cluster=cluster)
    inputs: Any = SomeInputs(SimpleNamespace(folder=folder))
    return check_engine(config, inputs)


def test_common_kinds_are_not_asked_about(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert {family.kind for family in FAMILIES.values() if family.text is None} == SERVED
    for kind in SERVED:
        assert asked(monkeypatch, tmp_path, kind, None).warnings == ("before",)
    assert asked(monkeypatch, tmp_path, "qwen3_5", None, address="10.0.0.1:6379").warnings == ("before",)


def test_a_policy_that_vllm_refuses_is_an_error_before_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for kind, trust in (("qwen3_5", False), ("own", False), ("llama", True)):
        with pytest.raises(ModelError, match=r"vLLM cannot serve the policy in .*: no such attention"):
            asked(monkeypatch, tmp_path, kind, ("no such attention", ""), trust=trust)
        assert asked(monkeypatch, tmp_path, kind, ("", ""), trust=trust).warnings == ("before",)


def test_a_library_that_is_not_here_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Workers may be on another machine."""
    warnings = asked(monkeypatch, tmp_path, "gemma3", ("", "No module named 'torchvision'")).warnings
    assert warnings[0] == "before" and "torchvision" in warnings[1]
