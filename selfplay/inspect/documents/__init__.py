"""The JSON documents that the inspection commands print."""
