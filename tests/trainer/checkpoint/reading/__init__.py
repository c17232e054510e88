"""Tests of how the files of a checkpoint are read."""
