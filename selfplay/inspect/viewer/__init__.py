"""`view`: a run, a folder of runs or what `select` wrote, in a browser on this machine. Read-only."""
