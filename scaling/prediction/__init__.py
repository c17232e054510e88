"""Predictions of the loss of a run from smaller ones: the fit, the sealed prediction, its score, and the tally."""
