"""Ranks as processes of this machine: starts them, supervises them, and leaves none behind."""
