"""Learnings become memory: read from JSON, markdown, session logs and campaigns; each an entry where it belongs."""
