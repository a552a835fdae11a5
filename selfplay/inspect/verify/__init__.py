"""`selfplay verify`: checks sizes, digests, the commit chain and the rows."""
