"""A real, private Slurm to run the tests on, or to try the launcher on by hand."""
