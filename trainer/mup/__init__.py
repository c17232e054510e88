"""Parametrizations: how initial weights, multipliers and learning rates follow from a model's shape."""
