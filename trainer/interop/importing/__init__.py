"""Models of other libraries as checkpoints from which runs start."""
