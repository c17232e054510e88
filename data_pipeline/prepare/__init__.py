"""Preparation: from text to a corpus."""
