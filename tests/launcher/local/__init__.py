"""Tests of foretrain.launcher.local."""
