"""Carrying what was tuned on small proxies over to a large model, with the evidence that it holds there."""
