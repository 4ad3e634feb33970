"""Agents that use the memory of a clone: what they are given, and how they are wired in."""
