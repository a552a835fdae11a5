"""Looks at runs: documents, queries, verification, reports, the viewer, exports, trackers. Writes nothing into a run
but what is derived; may import store, config, selection, core."""
