"""Training with TRL: DPO and SimPO on token ids, sealed checkpoints, checks at the start."""
