"""Transfer of values that were tuned on small proxies to a large model, with the evidence that they hold there."""
