"""The dataset card of a result: what `load_dataset` makes of it."""

from __future__ import annotations

from pathlib import Path

import datasets

from selfplay.store.durable import remove_tree
from tests.helpers.tables import Select, kept, text_rows, write_rows


def load(folder: Path, split: str, cache: Path, name: str | None = None) -> datasets.Dataset:
    return datasets.load_dataset(str(folder), name, split=split, cache_dir=str(cache))


def test_results_of_one_folder_name_do_not_share_a_cache(tmp_path: Path, run: Select) -> None:
    for folder, num_pairs, keep in (("a", 10, 0.4), ("b", 6, 0.5), ("a", 10, 0.2)):
        source = write_rows(tmp_path / f"{folder}.jsonl", text_rows(num_pairs, seed=num_pairs))
        out = tmp_path / folder / "best"
        if out.exists():
            remove_tree(out)
        run(source, metric="explicit_margin", keep=keep, out=str(out))
        found = load(out, "kept", tmp_path / "cache")
        assert found["pair_id"] == [row["pair_id"] for row in kept(out)] and len(found) == round(num_pairs * keep)


def test_the_same_result_is_cached_and_the_unused_responses_have_their_own_identity(
    tmp_path: Path, run: Select
) -> None:
    for folder in ("a", "b"):
        rows = [{"prompt": "q", "responses": ["x", "y", f"z{folder}"], "rewards": [2, 0, 1]}]
        out = tmp_path / folder / "best"
        run(write_rows(tmp_path / f"{folder}.jsonl", rows), metric="explicit_margin", keep=1.0, out=str(out))
        unused = load(out, "unused", tmp_path / "cache", "unused")
        assert (
            unused["reason"] == ["not_extreme"]
            and unused["response_id"] == load(out, "unused", tmp_path / "fresh" / folder, "unused")["response_id"]
        )
    first, again = (load(out, "kept", tmp_path / "cache") for _ in range(2))
    assert first.cache_files == again.cache_files
