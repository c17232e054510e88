"""An acceptance program for a machine with GPUs: `python -m benchmarks.gpu`."""
