"""The benchmark of ready batches: `python -m benchmarks.data`."""
