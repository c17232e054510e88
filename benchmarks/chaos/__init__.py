"""Kills the processes of runs with SIGKILL at random moments, and compares their curves with that of a calm run."""
