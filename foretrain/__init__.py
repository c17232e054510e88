"""Foretrain pretrains language models: one loss curve, whatever the layout, the launcher, or the machine that died."""
