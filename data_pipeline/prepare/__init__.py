"""Text to a corpus."""
