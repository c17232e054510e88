"""What the exit status of a run says; any other number is a failure."""

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_RESUME = 85
"""Checkpointed: start me again."""
EXIT_CONFIG = 93
"""Never start this again: what is wrong with it stays wrong. For launchers; by hand it is EXIT_BAD_INPUT."""
EXIT_BAD_INPUT = 2
