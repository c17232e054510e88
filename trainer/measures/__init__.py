"""What `foretrain eval` measures of a trained model: losses on held-out text, and how well its probabilities hold."""
