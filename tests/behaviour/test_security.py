"""Each line of the design's paragraph on security that is not tested elsewhere: hostile strings on a terminal, secrets in no
file, pickles refused, model code only with a pinned commit, Ray's door shut.

Tested elsewhere: symbolic links and names that lead out of a run (tests/inspect/verify), the requests that the viewer accepts
(tests/inspect/viewer), SQL (tests/inspect/query), hub revisions (tests/inputs), the ports of Ray (tests/execution/ray),
configurations (tests/config), trainer checkpoints (tests/backends/trl), web pages (tests/inspect/web).
"""

from __future__ import annotations

import io
import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import selfplay
from selfplay.backends.trl import checkpoints
from selfplay.cli.main import app
from selfplay.config.load import load_config
from selfplay.config.running import ClusterConfig
from selfplay.core.errors import BackendError, ConfigError, ModelError
from selfplay.core.escape import escape_terminal
from selfplay.core.outcomes import ScoreOutcome, SelectOutcome
from selfplay.core.redaction import RedactingStream, redact, secrets
from selfplay.execution.progress import Reporter
from selfplay.execution.ray.ray_cluster import RayCluster
from selfplay.inputs.models.files import model_digest, refuse_foreign_code, weight_headers
from selfplay.run import driver
from selfplay.run.worker_specs import worker_specs
from selfplay.store.run import Store
from tests.helpers.fakes import Fakes, FakeSampler
from tests.run.test_driver import WriteConfig, start

EVIL = "\x1b[2J\x1b]0;owned\x07\u202etxt.exe\u2066\x9b31m\r[bold red]markup[/]\u200b\U000e0041"


def is_harmless(text: str) -> bool:
    return all(character.isprintable() or character in "\n\u200c\u200d" for character in text)


# ---------------------------------------------------------------------- hostile strings


class EvilSampler(FakeSampler):
    def sample(self, requests: Any, settings: Any) -> Any:
        table = super().sample(requests, settings)
        texts = [f"{EVIL} {text}" for text in table["text"].to_pylist()]
        return table.set_column(table.column_names.index("text"), "text", [texts])


def evil_reward(fakes: Fakes) -> None:
    """Fails for some responses, with a message that nobody would choose."""
    real = fakes.scorer.score

    def score(items: Any) -> Any:
        table = real(items).to_pydict()
        table["reward"][0], table["drop_reason"][0] = None, f"reward_error: ValueError: {EVIL}"
        return io_table(table)

    fakes.scorer.score = score  # type: ignore[method-assign]


def io_table(columns: dict[str, Any]) -> Any:
    import pyarrow as pa

    types = {"response_id": pa.string(), "reward": pa.float64(), "drop_reason": pa.string()}
    return pa.table({name: pa.array(values, types[name]) for name, values in columns.items()})


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory, tiny_world: Path) -> Path:
    """A run whose prompts, ids, columns, responses and reasons are hostile."""
    import yaml

    root = tmp_path_factory.mktemp("evil")
    rows = [{"prompt": f"{EVIL} {i}", "id": f"{i}{EVIL}", "topic": EVIL, EVIL: i} for i in range(12)]
    (root / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"source": str(root / "prompts.jsonl"), "id_column": "id"}
    document = {
        "policy": {"model": str(tiny_world / "policy")},
        "prompts": {**source, "per_round": 12},
        "sampling": {"num_responses": 4, "temperature": 0.8, "max_tokens": 8, "shard_size": 6},
        "reward": {"model": str(tiny_world / "reward_model")},
        "selection": {"keep": 0.5, "group_column": "topic"},
        "training": {"beta": 0.1, "learning_rate": 1e-3, "batch_size": 2},
        "evaluation": {**source, "num_prompts": 8},
        "rounds": 1,
    }
    config = root / "config.yaml"
    config.write_text(yaml.safe_dump(document))
    fakes = Fakes()
    fakes.sampler = EvilSampler()
    fakes.poison = {rows[3]["id"]}
    evil_reward(fakes)
    prepared = driver.preflight(load_config(config), root, root / "run")
    store = driver.run(prepared, config.read_text(), [], Reporter(quiet=True), workers=fakes)
    assert EVIL in store.table(1, "sample")["text"][0].as_py()
    return store.layout.root


def commands(run: Path, tmp_path: Path) -> dict[str, list[str]]:
    pair = Store.open(run).table(1, "select")["pair_id"][0].as_py()
    evil_config = tmp_path / "evil.yaml"
    evil_config.write_text(json.dumps({"policy": {EVIL: EVIL}, EVIL: 1}))
    return {
        "status": ["status", str(run)],
        "rounds": ["rounds", str(run)],
        "show": ["show", str(run), "1", "--by", "topic"],
        "pairs": ["pairs", str(run), "1", "--content"],
        "pair": ["pair", str(run), pair],
        "verify": ["verify", str(run), "--deep"],
        "select": ["select", str(run / "rounds/001/select"), "--out", str(tmp_path / "selected"), "--keep", "0.5"],
        "export": ["export", str(run), "--to", str(tmp_path / "exported"), "--policies", "none"],
        "fork": ["fork", str(run), "--from-round", "0", "--dry-run", f"selection.group_column={EVIL}"],
        "gc": ["gc", str(run), "--keep-policies", "2", "--dry-run"],
        "resume": ["resume", str(run), f"{EVIL}=1"],
        "run": ["run", str(evil_config)],
        "config": ["config", "validate", str(evil_config)],
        "metrics": ["metrics", EVIL],
        "compare": ["compare", str(evil_config), "--metrics", EVIL],
        "doctor": ["doctor", str(run)],
        "report": ["report", str(run)],
        "view": ["view", EVIL],
        "diff": ["diff", str(run), str(run)],
        "sql": ["sql", str(run), "select * from responses limit 5"],
    }


# quickstart reads nothing that somebody else wrote
NAMES = sorted({*get_command(app).commands} - {"quickstart"})  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", NAMES)
def test_no_command_sends_a_hostile_string_to_the_terminal(evil: Path, tmp_path: Path, name: str) -> None:
    shown = CliRunner().invoke(app, commands(evil, tmp_path).get(name, [name, str(evil)]))
    assert shown.stdout + shown.stderr, "it says something"
    assert is_harmless(shown.stdout), repr(shown.stdout)
    assert is_harmless(shown.stderr), repr(shown.stderr)
    if name in ("pairs", "pair"):
        assert "\\x1b[2J" in shown.stdout and "[bold red]markup[/]" in shown.stdout


def test_the_log_of_a_run_is_harmless(evil: Path) -> None:
    log = (evil / "attempts/0001/log.txt").read_text()
    assert "quarantined" in log and "\\x1b[2J" in log
    assert is_harmless(log), repr(log)
    assert is_harmless((evil / "attempts/0001/events.jsonl").read_text())


def test_what_is_said_of_work_is_harmless() -> None:
    people = io.StringIO()
    reporter = Reporter(people)
    reporter.say(EVIL)
    progress = reporter.begin(EVIL, 2, 0, "prompts")
    progress._shown = -100.0  # a line a minute without a terminal
    progress.advance(1, EVIL)
    progress.end()
    assert len(people.getvalue().splitlines()) == 2
    assert is_harmless(people.getvalue()), repr(people.getvalue())


def test_a_failure_with_hostile_last_words_is_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    from selfplay.cli.main import guarded

    def fail() -> None:
        raise BackendError(f"its last words:\n    {EVIL}", EVIL)

    with pytest.raises(SystemExit):
        guarded(fail)()
    said = capsys.readouterr().err
    assert is_harmless(said) and "\\x1b[2J" in said


# ---------------------------------------------------------------------- secrets

CANARY = "hf_CANARYcanaryCANARYcanary0123"


@pytest.fixture
def canary(monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("HF_TOKEN", "WANDB_API_KEY", "MY_JUDGE_API_KEY"):
        monkeypatch.setenv(name, CANARY)
    return CANARY


def files_with(canary: str, root: Path) -> list[str]:
    return [str(path) for path in root.rglob("*") if path.is_file() and canary.encode() in path.read_bytes()]


def test_a_secret_reaches_no_file_of_a_run_nor_what_is_made_of_it(
    canary: str, write_config: WriteConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A function and a trainer that quote it, a failure with it, logs, reports and exports."""
    run = tmp_path / "run"
    (tmp_path / "leaky.py").write_text(
        "import os\n"
        "def reward(prompt, response):\n"
        "    if len(response) % 3 == 0:\n"
        "        raise RuntimeError(f'401 for key {os.environ[\"MY_JUDGE_API_KEY\"]}')\n"
        "    return float(len(response))\n"
    )
    config = write_config(
        reward={"model": None, "function": f"{tmp_path}/leaky.py:reward", "max_failed": 1.0}, rounds=1
    )
    from selfplay.inputs.user_code.rewards import RewardFunction

    fakes = Fakes(gold=False)
    fakes.scorer = RewardFunction(f"{tmp_path}/leaky.py:reward", str(tmp_path))  # type: ignore[assignment]
    real, failing = fakes.trainer.train, [True]

    def train(job: Any, progress: Any) -> Any:
        if failing.pop() if failing else False:
            raise BackendError(f"the trainer said {canary}", f"and {canary}")
        return real(job, progress)

    fakes.trainer.train = train  # type: ignore[method-assign]
    from selfplay.cli.main import guarded

    with pytest.raises(SystemExit):
        guarded(lambda: start(config, run, fakes) and None)()
    said = capsys.readouterr()
    assert canary not in said.out + said.err and "the trainer said [" in said.err
    from tests.run.test_driver import resume

    assert canary not in resume(run, fakes)
    reasons = Store.open(run).outcome(1, ScoreOutcome).to_json()["drop_reasons"]
    assert any(reason.startswith("reward_error: RuntimeError: 401 for key [") for reason in reasons)
    for arguments in (
        ["show", str(run), "1"],
        ["report", str(run)],
        ["export", str(run), "--to", str(tmp_path / "exported"), "--policies", "none"],
    ):
        shown = CliRunner().invoke(app, arguments)
        assert canary not in shown.stdout + shown.stderr
    assert any((tmp_path / "exported").rglob("*.parquet"))
    assert files_with(canary, tmp_path) == []


@pytest.mark.parametrize("where", ["setting", "comment", "override"])
def test_a_configuration_that_holds_a_secret_is_refused(
    canary: str, write_config: WriteConfig, tmp_path: Path, where: str
) -> None:
    config = write_config(policy={"system_prompt": canary if where == "setting" else "be kind"})
    if where == "comment":
        config.write_text(config.read_text() + f"\n# {canary}\n")
    more = [f"policy.system_prompt={canary}"] if where == "override" else []
    shown = CliRunner().invoke(app, ["run", str(config), *more, "--run-dir", str(tmp_path / "run")])
    assert shown.exit_code == 2
    assert "holds the value of the environment variable" in shown.stderr and canary not in shown.stderr
    assert not (tmp_path / "run").exists()


def test_a_selection_whose_settings_hold_a_secret_is_refused(canary: str, tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text("{}\n")
    arguments = ["select", str(tmp_path / "pairs.jsonl"), "--out", str(tmp_path / "out"), "--keep", "0.5"]
    arguments += ["--reward-model", canary]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 2 and canary not in shown.stderr
    assert "holds the value of the environment variable" in shown.stderr
    assert not (tmp_path / "out").exists()


def test_what_is_a_secret_and_what_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {*secrets().values()}:
        monkeypatch.delenv(name)
    found = {
        "OPENAI_API_KEY": "sk-12345678", "DB_PASSWORD": "long enough", "AWS_SECRET_ACCESS_KEY": "abcdefgh", "A_TOKEN": "short",
        "TOKENIZERS_PARALLELISM": "falsefalse", "SSH_KEYS": "12345678", "RAY_AUTH_TOKEN_PATH": "/somewhere/token",
    }  # fmt: skip
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    assert {*secrets().values()} == {"OPENAI_API_KEY", "DB_PASSWORD", "AWS_SECRET_ACCESS_KEY"}
    assert redact("key sk-12345678, short") == "key [OPENAI_API_KEY], short"
    stream = io.StringIO()
    print("a sk-12345678 b", file=RedactingStream(stream))  # type: ignore[arg-type]
    assert stream.getvalue() == "a [OPENAI_API_KEY] b\n"


def test_only_a_users_function_is_given_the_secrets(write_config: WriteConfig, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def reward(prompt, response):\n    return 1.0\n")
    sections: dict[str, Any] = {"evaluation": {"gold": f"{tmp_path}/mine.py:reward"}}
    config = load_config(write_config(**sections))
    prepared = driver.preflight(config, tmp_path, tmp_path / "run")
    specs = worker_specs(config, prepared.inputs)
    assert {name for name, spec in specs.items() if spec.secrets} == {"gold"}
    assert {"sampler", "logprobs", "trainer", "reward"} <= {*specs}


# ---------------------------------------------------------------------- pickles and model code


@pytest.mark.parametrize("section", ["policy", "reward"])
def test_a_model_that_is_only_there_as_a_pickle_is_refused_and_not_opened(
    write_config: WriteConfig, tiny_world: Path, tmp_path: Path, section: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_world / ("policy" if section == "policy" else "reward_model"), folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(bomb(tmp_path / "went off"))
    with pytest.raises(ModelError, match="no safetensors weights, only pickled ones") as refused:
        driver.preflight(load_config(write_config(**{section: {"model": str(folder)}})), tmp_path, tmp_path / "run")
    assert "safetensors" in refused.value.hint
    assert not (tmp_path / "went off").exists()


def test_a_trainers_pickles_are_not_opened_before_its_seal_holds(tmp_path: Path) -> None:
    """What decides is `checkpoints.find`, the only way to a checkpoint; it reads no pickle."""
    folder = tmp_path / "checkpoints/checkpoint-3"
    folder.mkdir(parents=True)
    for name in checkpoints.REQUIRED:
        (folder / name).write_bytes(bomb(tmp_path / "went off"))
    assert "not sealed" in checkpoints.find(tmp_path / "checkpoints", "f").rejected[0][1]
    checkpoints.seal(folder, 3, "f")
    assert checkpoints.find(tmp_path / "checkpoints", "f").folder == folder
    (folder / "optimizer.pt").write_bytes(bomb(tmp_path / "other"))
    assert checkpoints.find(tmp_path / "checkpoints", "f").folder is None
    assert not (tmp_path / "went off").exists()


class _Bomb:
    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (str(self._marker), "w")


def bomb(marker: Path) -> bytes:
    """A pickle that makes a file when it is opened."""
    data = pickle.dumps(_Bomb(marker))
    pickle.loads(data).close()  # noqa: S301 - it goes off
    assert marker.exists()
    marker.unlink()
    return data


def test_no_call_opens_a_pickle() -> None:
    """No torch.load, and numpy may not unpickle. (That no module imports pickle is a contract in pyproject.toml.)"""
    sources = {path: path.read_text(encoding="utf-8") for path in Path(selfplay.__file__).parent.rglob("*.py")}
    assert len(sources) > 100
    calls = ("torch.load(", "allow_pickle=True")
    assert [(path.name, call) for path, text in sources.items() for call in calls if call in text] == []


def test_model_code_runs_only_where_a_commit_is_pinned(write_config: WriteConfig) -> None:
    for revision in (None, "main", "v1.0", "0" * 39, "Z" * 40):
        with pytest.raises(ConfigError, match="full commit sha"):
            load_config(write_config(policy={"model": "org/name", "trust_remote_code": True, "revision": revision}))
    load_config(write_config(policy={"model": "org/name", "trust_remote_code": True, "revision": "0" * 40}))


# ---------------------------------------------------------------------- Ray


@pytest.fixture
def no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")  # so that it is put back, whatever sets it
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    yield tmp_path


def join(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as the door: what would be reached is not."""
    import selfplay.execution.ray.ray_cluster as module

    def reached(address: object) -> None:
        raise OSError("reached")

    monkeypatch.setattr(module, "check_reachable", reached)
    RayCluster(ClusterConfig(address="ray://10.9.8.7:10001"), tmp_path).__enter__()


def test_a_cluster_is_joined_with_a_token_only(no_token: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    with pytest.raises(ConfigError, match="no token to join it with") as refused:
        join(tmp_path, monkeypatch)
    assert "RAY_AUTH_TOKEN" in refused.value.hint
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a token of forty characters or so")
    with pytest.raises(Exception, match="reached"):
        join(tmp_path, monkeypatch)
    assert os.environ["RAY_AUTH_MODE"] == "token"


def test_a_network_of_ones_own_is_the_users_word(
    no_token: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(Exception, match="reached"):
        join(tmp_path, monkeypatch)


def test_escape_terminal_leaves_ordinary_text_alone() -> None:
    for text in ("naïve 日本語 עברית 👩\u200d🔬", "[bold]x[/]", "a b"):
        assert escape_terminal(text) == text
    assert escape_terminal(EVIL).isprintable()


# ---------------------------------------------------------------------- what the issue names beside these


@pytest.mark.parametrize(
    "override", ["x=!!python/object/apply:os.system ['touch owned']", "seed=!!python/name:os.system"]
)
def test_yaml_tags_are_refused_in_a_file_and_on_the_command_line(
    write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str
) -> None:
    monkeypatch.chdir(tmp_path)
    config = write_config()
    shown = CliRunner().invoke(app, ["run", str(config), override, "--run-dir", "run"])
    assert shown.exit_code == 2 and "Tags are not read" in shown.stderr
    name, _, value = override.partition("=")
    config.write_text(f"{config.read_text()}\n{name}x: {value}\n")
    shown = CliRunner().invoke(app, ["run", str(config), "--run-dir", "run"])
    assert shown.exit_code == 2 and "Tags are not read" in shown.stderr
    assert not (tmp_path / "owned").exists() and not (tmp_path / "run").exists()


def test_aliases_of_aliases_do_not_fill_the_memory(write_config: WriteConfig) -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)]
    override = "sampling.engine={" + ", ".join(lines) + "}"
    with pytest.raises(ConfigError, match="more than 10000 values"):
        load_config(write_config(), [override])


@pytest.mark.parametrize("value", [".nan", ".inf", "[1, .inf]", "{a: -.inf}", '"\\ud800"', '{"\\udfff": 1}'])
def test_a_value_that_json_cannot_hold_is_refused(write_config: WriteConfig, value: str) -> None:
    """It was recorded as null, so that a resume knew another setting than the start."""
    with pytest.raises(ConfigError, match=r"sampling\.engine"):
        load_config(write_config(), [f"sampling.engine.block_size={value}"])


@pytest.mark.parametrize("secret", ['a"quoted\\one', "it's one\twith a tab", "sécret-value"])
def test_a_secret_with_quotes_is_found_too(
    write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    monkeypatch.setenv("MY_API_KEY", secret)
    override = f"policy.system_prompt={json.dumps(f'say {secret}')}"
    shown = CliRunner().invoke(app, ["run", str(write_config()), override, "--run-dir", str(tmp_path / "run")])
    assert shown.exit_code == 2 and "environment variable MY_API_KEY" in shown.stderr
    assert secret not in shown.stderr and not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["../elsewhere/model.safetensors", "sub/model.safetensors", "pytorch_model.bin", 3])
def test_a_models_weights_lie_in_its_folder(
    write_config: WriteConfig, tiny_world: Path, tmp_path: Path, name: Any
) -> None:
    """What lies elsewhere is in no digest: it could be changed under a run."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_world / "policy", folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": name}}))
    with pytest.raises(ModelError, match="is not a safetensors file of its folder"):
        driver.preflight(load_config(write_config(policy={"model": str(folder)})), tmp_path, tmp_path / "run")


@pytest.mark.parametrize("section", ["policy", "reward"])
def test_a_model_with_an_adapter_in_its_folder_is_refused(
    write_config: WriteConfig, tiny_world: Path, tmp_path: Path, section: str
) -> None:
    """transformers would take its base model from wherever the adapter says."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_world / ("policy" if section == "policy" else "reward_model"), folder)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/elsewhere", "peft_type": "LORA"}')
    with pytest.raises(ModelError, match="holds an adapter"):
        driver.preflight(load_config(write_config(**{section: {"model": str(folder)}})), tmp_path, tmp_path / "run")


def test_a_pinned_models_code_is_its_own(tmp_path: Path) -> None:
    """A revision pins one repository; code that transformers fetches from another one is not pinned."""
    (tmp_path / "config.json").write_text('{"auto_map": {"AutoConfig": "modeling.Config"}}')
    refuse_foreign_code(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["org/other--tokens.T", null]}}')
    with pytest.raises(ModelError, match="org/other--tokens"):
        refuse_foreign_code(tmp_path)


@pytest.mark.parametrize(
    "header", ["[]", '{"a": 1}', '{"a": {"dtype": "F32", "shape": [1], "data_offsets": ["x"]}}', "[" * 100_000]
)
def test_weights_with_a_header_that_is_none(tmp_path: Path, header: str) -> None:
    data = header.encode()
    (tmp_path / "model.safetensors").write_bytes(len(data).to_bytes(8, "little") + data)
    with pytest.raises(ModelError, match="damaged header"):
        weight_headers(tmp_path)


@pytest.mark.parametrize(
    "place", ["RUN.json", "run.lock", "rounds/001/sample/part-00000.parquet", "config/pins.json", "."]
)
def test_a_report_is_never_written_over_a_runs_own_files(evil: Path, place: str) -> None:
    before = {path: path.read_bytes() for path in evil.rglob("*") if path.is_file()}
    shown = CliRunner().invoke(app, ["report", str(evil), "--out", str(evil / "config" / ".." / place)])
    assert shown.exit_code == 2 and "own files" in shown.stderr
    assert before == {path: path.read_bytes() for path in evil.rglob("*") if path.is_file()}


def test_no_run_is_made_inside_another(evil: Path, write_config: WriteConfig) -> None:
    shown = CliRunner().invoke(app, ["run", str(write_config()), "--run-dir", str(evil / "rounds/004")])
    assert shown.exit_code == 2 and "inside the run" in shown.stderr
    assert not (evil / "rounds/004").exists()


def test_what_a_user_may_not_read_is_no_damage(evil: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its hint must not be to remove what is sound."""
    import os

    real = os.open

    def refusing(path: Any, *arguments: Any, **named: Any) -> int:
        if str(path).endswith("001/sample/.COMMIT.json"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **named)

    monkeypatch.setattr(os, "open", refusing)
    for command in ("status", "rounds", "verify"):
        shown = CliRunner().invoke(app, [command, str(evil)])
        assert shown.exit_code == 1 and "COMMIT.json cannot be read: no permission" in shown.stderr
        assert "emove" not in shown.stderr + shown.stdout


def test_an_error_of_the_machine_is_no_fault_of_selfplay() -> None:
    shown = CliRunner().invoke(app, ["status", "x" * 5000])
    assert shown.exit_code == 1 and "File name too long" in shown.stderr and "unexpected" not in shown.stderr


def test_every_chat_template_of_a_model_is_pinned(tiny_world: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_world / "policy", folder)
    before = model_digest(folder)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates/default.jinja").write_text("another")
    assert model_digest(folder) != before


def test_a_run_without_evaluation_whose_metric_reads_a_column_is_shown_exported_and_viewed(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    """Found with hostile strings, and none of them needed."""
    from tests.helpers.viewing import client_of

    config = write_config(evaluation=None, selection={"keep": 0.5, "group_column": "topic"}, rounds=1)
    run = start(config, tmp_path / "run", Fakes(gold=False)).layout.root
    for arguments in (
        ["show", str(run), "1", "--by", "topic"],
        ["export", str(run), "--to", str(tmp_path / "out"), "--policies", "none"],
        ["export", str(run), "--to", str(tmp_path / "jsonl"), "--format", "jsonl"],
    ):
        shown = CliRunner().invoke(app, arguments)
        assert shown.exit_code == 0, shown.stderr
    kept = Store.open(run).outcome(1, SelectOutcome).to_json()["num_kept"]
    assert len((next((tmp_path / "jsonl").rglob("*.jsonl"))).read_text().splitlines()) == kept > 0
    assert client_of(run).get("/run/run").status_code == 200
