"""Ranks as processes of this machine: starts them, listens to them, and leaves none behind."""
