"""Small runs of complete configs, each trained once: what studies such as sweeps and ladders consist of."""
