"""The exit statuses of a run; any other status is a failure."""

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_RESUME = 85
"""The run has written a checkpoint and must be started again."""
EXIT_HANG = 86
"""The ranks hung, or a rank lost its data or its files for now. They have said why, and must be started again."""
EXIT_CONFIG = 93
"""The run must not be started again, since it would fail in the same way. Only launchers get this status; a user who
starts the run by hand gets EXIT_BAD_INPUT."""
EXIT_BAD_INPUT = 2
