"""What this program writes, byte by byte, as files that a later version of it, and any other, can be held against."""
