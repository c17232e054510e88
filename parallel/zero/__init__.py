"""Data parallelism and the optimizer step: gradients reduced over the replicas, and states sharded over them."""
