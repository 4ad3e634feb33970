"""What a clone holds: keys, changes, the store, documents, files and history. No sockets, no terminal."""

__version__ = "0.1.0"
