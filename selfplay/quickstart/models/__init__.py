"""Makes the tiny policy, reward model and tokenizer; imports torch."""
