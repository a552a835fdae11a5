"""One file per command: parse, call, render. May import everything."""
