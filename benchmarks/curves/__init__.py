"""How well laws of curves predict the published losses of warm-up-stable-decay runs from other schedules."""
