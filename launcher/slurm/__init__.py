"""Starts runs as Slurm jobs: the batch script, and what Slurm is asked."""
