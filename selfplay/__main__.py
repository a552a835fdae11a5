"""`python -m selfplay` is the console script `selfplay`."""

from selfplay.cli.main import main

main()
