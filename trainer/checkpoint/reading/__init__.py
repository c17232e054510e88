"""Which bytes of the files of a checkpoint a rank reads."""
