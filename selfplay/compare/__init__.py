"""`selfplay compare`: several ways to choose and train, from one start and one sampled pool, side by side. May import
everything but cli.

arms -> settings -> running (sharing, warm) -> reading -> results -> report, plots
"""
