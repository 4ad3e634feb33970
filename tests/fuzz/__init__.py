"""Everything that reads foreign bytes, given bytes that nobody meant: targets.py, `python -m tests.fuzz --help`."""
