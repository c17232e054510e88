"""Predictions of published runs from smaller ones of the same table."""
