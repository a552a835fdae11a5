"""Model folders: files, weights, chat templates, checks before a run starts. Imports no torch at import time."""
