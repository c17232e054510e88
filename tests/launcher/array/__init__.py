"""Tests of what starts many independent commands: its pure parts. On real clusters: tests/slurm, tests/launcher/ray."""
