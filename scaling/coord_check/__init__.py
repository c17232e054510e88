"""The coordinate check: whether activations and their updates keep their size over widths and depths."""
