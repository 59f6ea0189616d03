"""Measurements of the server, alone and beside others; what they find goes to BENCHMARKS.md."""
