"""From a budget to a run: the compute-optimal model and its tokens, and what a smaller model would cost."""
