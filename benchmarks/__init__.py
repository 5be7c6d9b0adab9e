"""The benchmark programme: ``python -m benchmarks --help``."""
