"""How the cost of a step depends on the number of ranks, and on the sizes of the model and the run."""
