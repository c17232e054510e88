"""Tests of launcher.local."""
