def test_each_response_keeps_the_columns_of_its_own_row(
    tmp_path: Path, run: Select, columns_seen: list[dict[str, Any]]
) -> None:
    rows = [
        {"prompt": f"q{n // 2}", "response": "long answer" if n % 2 else "a", "helpfulness": n % 2, "topic": n // 2}
        for n in range(8)
    ]
    (tmp_path / "judge.py").write_text("def judge(prompt, response, helpfulness):\n    return helpfulness\n")
    run(write_rows(tmp_path / "a.jsonl", rows), reward_function=f"{tmp_path}/judge.py:judge", metric="full", keep=1.0)
    assert [row["helpfulness"] for row in columns_seen] == [0, 1] * 4
    for row in kept(tmp_path / "out"):
        columns = json.loads(row["columns_json"])
        assert columns == {
            "helpfulness_chosen": 1,
            "helpfulness_rejected": 0,
            "topic": int(row["prompt"][0]["content"][1:]),
        }
