"""`selfplay select`: ranks an existing preference dataset with the stages of a run. May import run and below."""
