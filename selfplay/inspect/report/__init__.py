"""One HTML file that says what a run did: derived from its commits, rebuilt at will, without script and without network."""
