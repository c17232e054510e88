"""Programs that the interpreters of other environments run, in which foretrain is not installed."""
