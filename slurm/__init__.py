"""Slurm: the batch script of a run, and a real private cluster on one machine to try it on."""
