"""Measurements, one module each: named input, seed, unit, machine. Run them with `make bench`; no test ever does."""
