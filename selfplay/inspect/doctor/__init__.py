"""`selfplay doctor`: checks the environment."""
