"""Measurements, run by `make bench-<what>`; each writes `benchmarks/results/<what>.csv` and `.md`."""
