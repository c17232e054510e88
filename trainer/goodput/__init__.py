"""The goodput of a run: the share of its life that it spent on steps, and what it spent the rest on."""
