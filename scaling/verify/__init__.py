"""One curve, checked: every layout of a config against one process."""
