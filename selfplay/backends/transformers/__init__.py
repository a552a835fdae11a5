"""Forward passes with transformers: rewards, log-probs, embeddings."""
