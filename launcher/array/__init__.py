"""Starts many independent commands, as a Slurm array or on the nodes of a Ray cluster, and tells how each ended.

The folder of a job array holds `tasks.txt` (a line for each command), `code/`, `logs/NAME.log`, `ended/NAME.json` once a
task will not be started again, and what the folder of a run that was launched has too (environment.json, ...).
"""
