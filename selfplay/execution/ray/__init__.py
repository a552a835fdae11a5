"""Workers on Ray: the only room that imports ray."""
