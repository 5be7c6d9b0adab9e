"""torch's tests that fail with our classes although they pass with torch's, each with its reason."""

KNOWN: dict[str, str] = {}
"""The test's name, as in `TestOptimRenewedCPU.test_errors_Adam_cpu_float32`, and why it is right to fail."""
