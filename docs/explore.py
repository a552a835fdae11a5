"""Inspect a run from Python, cell by cell: `python docs/explore.py runs/quickstart`, or open it in an editor that knows `# %%`.

Nothing heavy is imported: no torch, no vLLM, no Ray. The columns are those of docs/data.md.
"""

# %% Open a run. This reads only names and sizes of files.
import sys

import selfplay

run = selfplay.open_run(sys.argv[1] if len(sys.argv) > 1 else "runs/quickstart")
print(run)

# %% Is it getting better? One row a round; held-out numbers are of the policy after the round.
rounds = run.rounds.to_pandas()
columns = ["round", "num_kept", "train_reward_mean", "eval_reward_mean", "eval_gold_mean", "eval_win_rate_vs_initial"]
print(rounds[columns].to_string(index=False))

# %% What was kept, and what did the cut cost? Only the columns named are read.
last = run.round_numbers[-1]
pairs = (
    run.pairs.of_rounds(last).select("kept", "explicit_margin", "implicit_margin", "alignment_potential").to_pandas()
)
print(pairs.groupby("kept").mean().to_string())

# %% Is it learning length? Chosen against rejected, in tokens.
lengths = run.pairs.where("kept").select("round", "num_tokens_chosen", "num_tokens_rejected").to_pandas()
gap = lengths["num_tokens_chosen"] - lengths["num_tokens_rejected"]
print(gap.groupby(lengths["round"]).describe()[["count", "mean", "50%"]].to_string())

# %% The texts of the best pair.
best = run.pairs.of_rounds(last).select("pair_id", "prompt", "chosen", "rejected").head(1).to_arrow().to_pylist()[0]
for side in ("prompt", "chosen", "rejected"):
    print(f"{side}: {best[side][-1]['content']}")

# %% All responses to its prompt, with rewards and how each was used.
for response in run.pair(best["pair_id"])["responses"]:
    reward = "no reward" if response["reward"] is None else f"{response['reward']:.3f}"
    print(f"{reward:>10}  {response['use']:<10}  {response['text']}")

# %% Why are responses in no pair?
print(run.unused.to_pandas().groupby(["round", "reason"]).size().to_string())

# %% One held-out prompt, round by round: the greedy responses.
held_out = run.evaluation.where("mode == 'greedy'").select("prompt_id", "round", "text", "gold_reward").to_pandas()
first = held_out["prompt_id"].iloc[0]
print(held_out[held_out["prompt_id"] == first].to_string(index=False))

# %% The kept pairs of all rounds as a dataset, for another trainer.
dataset = run.pairs.where("kept").select("prompt", "chosen", "rejected").to_datasets()
print(dataset)
