"""Checkpoints of a run: their files, and the record that names what is in them."""
