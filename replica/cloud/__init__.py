"""Converged memory out to services and files, and back (docs/cloud.md)."""
