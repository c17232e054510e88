"""Layouts, process groups, tensor and pipeline parallelism, and the engine that joins them."""
