"""Whether planted bugs are reported and sound runs are not: the warning of a run that leaves its band, and `fit`'s."""
