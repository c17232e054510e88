"""Tests of the Ray launcher: its pure parts, and whole jobs on real clusters."""
