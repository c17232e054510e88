"""Job arrays: starts many independent commands, as a Slurm array or on a Ray cluster, and says how each ended.

The folder of a job array holds `tasks.txt` (a line for each command), `code/`, `logs/NAME.log`, `ended/NAME.json` once
a task will not be started again, and `environment.json` and `launches.jsonl`, as the folder of a run does.
"""
