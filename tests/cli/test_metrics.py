"""`selfplay metrics`: every rule with what it needs, as text and as one JSON document."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from selfplay.selection.metrics import METRICS

Call = Callable[..., Result]


def test_every_metric_is_listed(selfplay: Call) -> None:
    shown = selfplay("metrics")
    assert shown.exit_code == 0 and shown.stderr == ""
    document = json.loads(selfplay("metrics", "--json").stdout)
    assert document["schema_version"] == 1
    assert [metric["name"] for metric in document["metrics"]] == list(METRICS)
    for metric in document["metrics"]:
        lines = [line.strip() for line in shown.stdout.splitlines()]
        assert metric["name"] in lines
        for part in ("formula", "direction", "source"):
            assert any(line.endswith(metric[part]) for line in lines)
        for column in metric["inputs"]:
            assert column["name"] in shown.stdout and column["how_to_get"] in shown.stdout


def test_the_document_of_one_metric(selfplay: Call) -> None:
    document = json.loads(selfplay("metrics", "rs_dpo", "--json").stdout)
    rewards = ["reward_chosen", "reward_rejected"]
    assert document["metrics"] == [
        {
            "name": "rs_dpo",
            "formula": "sigmoid(R / tau); <= eta is left out",
            "direction": "large R is kept",
            "inputs": [
                {
                    "name": "explicit_margin",
                    "made_of": {"simpo": rewards, "dpo": rewards},
                    "how_to_get": "Give a reward model or function, or the columns reward_chosen and reward_rejected.",
                }
            ],
            "options": {"tau": 1.0, "eta": 0.5},
            "keeps_all": False,
            "source": "RS-DPO, Khaki et al., 2024 (arXiv 2402.10038)",
        }
    ]


def test_ones_own_metric_and_hostile_docstrings(
    selfplay: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text('def short(num_tokens_chosen, power=1.0):\n    "-n ** \\x1b[2Jpower"\n')
    shown = selfplay("metrics", "mine.py:short")
    assert "-n ** \\x1b[2Jpower" in shown.stdout and "power 1" in shown.stdout
    assert "whose tokenizer counts them" in shown.stdout


def test_an_unknown_metric(selfplay: Call) -> None:
    result = selfplay("metrics", "explicit")
    assert result.exit_code == 2 and result.stdout == ""
    assert "no metric 'explicit'" in result.stderr and "'explicit_margin'" in result.stderr
