"""Starts runs and looks after them."""
