"""One file per stage: reads committed tables, calls a pool, hands rows to the store."""
