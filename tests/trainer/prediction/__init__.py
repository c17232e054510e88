"""Tests of how a run is compared with its prediction."""
