"""Sweeps: one config, trained at several widths and depths, with several seeds, and with many values of settings."""
