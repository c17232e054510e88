"""A folder for PYTHONPATH: its `python -m foretrain` only pretends to train, and the rest is real."""
