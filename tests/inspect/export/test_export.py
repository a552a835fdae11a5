"""A run exported and read back: as `datasets` and TRL read it, without the machine in it."""

import getpass
import json
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from selfplay.cli.main import app
from selfplay.config.anonymize import neutral_settings, neutral_text
from selfplay.config.load import validate
from selfplay.core.errors import ConfigError, CorruptionError, SelfplayError
from selfplay.inspect.export import hub
from selfplay.inspect.export.main import Wanted, export
from selfplay.store.run import Store
from tests.helpers.make_run import make_run
from tests.helpers.sealing import rewrite


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_run(tmp_path / "run", rounds=2)


def load(folder: Path, name: str, split: str, cache: Path):
    import datasets

    return datasets.load_dataset(str(folder), name, split=split, cache_dir=str(cache))


def test_each_round_is_a_config_with_kept_and_dropped(store: Store, tmp_path: Path) -> None:
    done = export(store, Wanted(str(tmp_path / "out"), policies="all"))
    for number in (1, 2):
        table = store.table(number, "select")
        for split in ("kept", "dropped"):
            rows = table.filter(table["kept"] if split == "kept" else [not kept for kept in table["kept"].to_pylist()])
            found = load(tmp_path / "out", f"round_{number:03d}", split, tmp_path / "cache")
            assert found["pair_id"] == rows["pair_id"].to_pylist() and done.rounds[number][split] == len(found) > 0
            assert (
                found["chosen"] == rows["chosen"].to_pylist()
                and found["metric_value"] == rows["metric_value"].to_pylist()
            )
        assert set(found["source_file"]) == {"train.jsonl"} and min(found["source_row"]) >= 0
    assert done.policies == [1, 2]
    for number in (1, 2):
        policy = tmp_path / "out" / "policies" / f"round_{number:03d}"
        given = store.layout.stage(number, "train") / "policy" / "model.safetensors"
        assert (policy / "model.safetensors").read_bytes() == given.read_bytes()
        front = yaml.safe_load((policy / "README.md").read_text().split("---")[1])
        assert front["base_model"] == "policy" and front["datasets"] == ["out"] and "dpo" in front["tags"]


def test_exports_of_one_folder_name_do_not_share_a_cache(store: Store, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", rounds=1, text="goodbye")
    for folder, run in (("a", store), ("b", other)):
        export(run, Wanted(str(tmp_path / folder / "pairs"), policies="none"))
        found = load(tmp_path / folder / "pairs", "round_001", "kept", tmp_path / "cache")
        table = run.table(1, "select")
        assert found["prompt"] == table.filter(table["kept"])["prompt"].to_pylist()
    configs = [
        yaml.safe_load((tmp_path / folder / "pairs" / "README.md").read_text().split("---")[1])["configs"][0]
        for folder in ("a", "b")
    ]
    assert configs[0]["description"] != configs[1]["description"]


def test_only_the_rounds_and_policies_asked_for(store: Store, tmp_path: Path) -> None:
    done = export(store, Wanted(str(tmp_path / "out"), rounds=(2,), policies="none"))
    assert list(done.rounds) == [2] and done.policies == []
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".COMMIT.json",
        "README.md",
        "recipe",
        "round_002",
    ]
    with pytest.raises(ConfigError, match="round 7"):
        export(store, Wanted(str(tmp_path / "out"), rounds=(7,)))


def test_an_export_is_replaced_and_nothing_else_is(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "out"
    export(store, Wanted(str(target), policies="all"))
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "half").write_text("what a kill left")
    export(store, Wanted(str(target), policies="none"))
    assert not (target / "policies").exists() and not (tmp_path / ".out.partial").exists()
    other = make_run(tmp_path / "other", rounds=1)
    with pytest.raises(ConfigError, match="not an export of this run"):
        export(other, Wanted(str(target)))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not an export of this run"):
        export(store, Wanted(str(mine)))
    with pytest.raises(ConfigError, match="inside the run"):
        export(store, Wanted(str(store.layout.root / "rounds" / "x")))
    assert (mine / "thesis.txt").read_text() == "mine"


def test_damaged_pairs_are_not_exported(store: Store, tmp_path: Path) -> None:
    part = next(store.layout.stage(2, "select").glob("*.parquet"))
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(bytes(data))
    with pytest.raises(CorruptionError, match="sha256"):
        export(Store.open(store.layout.root), Wanted(str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_the_machine_is_not_in_it(tmp_path: Path) -> None:
    root = tmp_path / "home" / getpass.getuser() / "runs" / "x"
    store = make_run(root, rounds=1)
    attempt = store.layout.attempt(1) / "attempt.json"

    def name_the_machine(document: dict[str, Any]) -> None:
        document["host"] = socket.gethostname()
        document["config"]["policy"]["model"] = str(tmp_path / "models" / "mine")
        document["config"]["sampling"]["engine"] = {"download_dir": str(tmp_path / "cache"), "max_num_seqs": 8}
        document["config"]["cluster"]["address"] = f"{socket.gethostname()}:6379"

    rewrite(attempt, name_the_machine)
    policy = store.layout.stage(1, "train") / "policy"
    out = tmp_path / "elsewhere" / "out"
    export(Store.open(root), Wanted(str(out), policies="all"))
    assert policy.is_dir()
    texts = {path: path.read_text() for path in out.rglob("*") if path.suffix in (".md", ".yaml", ".json")}
    assert len(texts) >= 4
    for path, text in texts.items():
        assert str(tmp_path) not in text and "/models/" not in text, path
        assert f"{socket.gethostname()}:6379" not in text, path
    recipe = yaml.safe_load((out / "recipe" / "config.yaml").read_text())
    assert recipe["policy"]["model"] == "mine" and recipe["sampling"]["engine"] == {"download_dir": "cache"}
    assert "cluster" not in recipe
    validate(recipe, "the recipe")


def test_a_recipe_is_the_run_it_came_from(store: Store) -> None:
    from selfplay.config.diff import changes
    from selfplay.store.run_state import config_in_force

    config = validate(config_in_force(store), "the run")
    again = validate(neutral_settings(config), "the recipe")
    assert [change.name for change in changes(config, again) if change.tag == "identity"] == []


@pytest.mark.parametrize(
    ("text", "neutral"),
    [
        ("see /home/ada/models/x for it", "see x for it"),
        ("~/runs/a", "a"),
        ("a / b, and/or 1/2", "a / b, and/or 1/2"),
        ("hf://org/name and https://example.org/a/b", "hf://org/name and https://example.org/a/b"),
        ("<b>x</b> {{ m }}", "<b>x</b> {{ m }}"),
        ("org/name", "org/name"),
        ("('/data/x/y.jsonl')", "('y.jsonl')"),
    ],
)
def test_paths_in_texts_are_cut(text: str, neutral: str) -> None:
    assert neutral_text(text) == neutral


@pytest.mark.parametrize("kind", ["axolotl", "llama-factory", "jsonl"])
def test_other_trainers_formats(store: Store, tmp_path: Path, kind: str) -> None:
    out = tmp_path / kind
    done = export(store, Wanted(str(out), format=kind))
    for number in (1, 2):
        rows = [json.loads(line) for line in (out / f"round_{number:03d}.jsonl").read_text().splitlines()]
        table = store.table(number, "select")
        kept = table.filter(table["kept"])
        assert len(rows) == done.rounds[number]["kept"] == kept.num_rows
        chosen = [row["chosen"] if kind == "jsonl" else [row["chosen"]] for row in rows]
        assert chosen == kept["chosen"].to_pylist()
    if kind == "axolotl":
        settings = yaml.safe_load((out / "axolotl.yaml").read_text())
        assert [entry["path"] for entry in settings["datasets"]] == ["round_001.jsonl", "round_002.jsonl"]
    if kind == "llama-factory":
        info = json.loads((out / "dataset_info.json").read_text())
        assert {name: entry["file_name"] for name, entry in info.items()} == {
            "round_001": "round_001.jsonl", "round_002": "round_002.jsonl",
        }  # fmt: skip
    with pytest.raises(ConfigError, match="axolotl, llama-factory, jsonl"):
        export(store, Wanted(str(out), format="csv"))


class Api:
    """Stands in for huggingface_hub.HfApi: notes what it was asked."""

    calls: list[tuple] = []
    fails = False

    def create_repo(self, name: str, *, repo_type: str, private: bool, exist_ok: bool) -> None:
        Api.calls.append(("create", name, repo_type, private))

    def upload_folder(self, *, repo_id: str, folder_path: Path, repo_type: str = "model", **more) -> None:
        if Api.fails and repo_type == "model":
            raise OSError("no network")
        Api.calls.append(("upload", repo_id, repo_type, sorted(path.name for path in Path(folder_path).iterdir())))


def test_the_hub_is_private_unless_asked(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr(Api, "calls", [])
    done = export(store, Wanted("hf://org/name"))
    assert done.repositories == ["datasets/org/name", "org/name-round-002"]
    assert [call for call in Api.calls if call[0] == "create"] == [
        ("create", "org/name", "dataset", True), ("create", "org/name-round-002", "model", True),
    ]  # fmt: skip
    uploads = [call for call in Api.calls if call[0] == "upload"]
    assert {"README.md", "round_001", "round_002"} <= set(uploads[0][3]) and "model.safetensors" in uploads[1][3]
    Api.calls.clear()
    export(store, Wanted("hf://org/name", public=True, policies="none"))
    assert Api.calls[0] == ("create", "org/name", "dataset", False)
    monkeypatch.setattr(Api, "fails", True)
    with pytest.raises(SelfplayError, match=r"no network.*datasets/org/name are uploaded"):
        export(store, Wanted("hf://org/name"))
    with pytest.raises(ConfigError, match="no repository"):
        export(store, Wanted("hf://name"))
    with pytest.raises(ConfigError, match="--public"):
        export(store, Wanted("out", public=True))
    assert hub.repository_name("a-b/c.d_e") == "a-b/c.d_e"


def test_the_command_says_how_to_read_it(store: Store, tmp_path: Path) -> None:
    runner = CliRunner()
    answer = runner.invoke(app, ["export", str(store.layout.root), "--to", str(tmp_path / "out")])
    assert answer.exit_code == 0 and "load_dataset" in answer.output
    answer = runner.invoke(app, ["export", str(store.layout.root), "--to", str(tmp_path / "out"), "--json"])
    document = json.loads(answer.stdout)
    assert document["policies"] == [2] and [row["round"] for row in document["rounds"]] == [1, 2]


def test_trl_trains_a_step_from_it(store: Store, tiny_world: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    export(store, Wanted(str(tmp_path / "out"), policies="none"))
    rows = load(tmp_path / "out", "round_002", "kept", tmp_path / "cache").select_columns(
        ["prompt", "chosen", "rejected"]
    )
    model = AutoModelForCausalLM.from_pretrained(tiny_world / "policy", dtype="float32")
    before = model.lm_head.weight.detach().clone()
    settings = DPOConfig(
        output_dir=str(tmp_path / "trained"), max_steps=1, per_device_train_batch_size=2, learning_rate=1e-2, use_cpu=True,
        bf16=False, gradient_checkpointing=False, report_to="none", save_strategy="no", disable_tqdm=True, warmup_steps=0,
    )  # fmt: skip
    trainer = DPOTrainer(
        model, args=settings, train_dataset=rows, processing_class=AutoTokenizer.from_pretrained(tiny_world / "policy")
    )
    trainer.train()
    assert trainer.state.global_step == 1 and not before.equal(model.lm_head.weight)
