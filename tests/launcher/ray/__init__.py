"""Tests of the Ray launcher: its pure parts, and complete jobs on real clusters."""
