"""To be put on PYTHONPATH: its `foretrain` takes the place of the real one where no training is wanted."""
