"""Which bytes of the files of a checkpoint a rank reads, and what the ranks of a machine read together."""
