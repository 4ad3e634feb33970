"""Session logs of agents become memory: read them, remember what was said, write daily memory files."""
