"""Templates of the batch scripts that the launcher submits to Slurm."""
