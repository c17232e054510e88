"""Laws of the loss over the steps of a run, which depend on the schedule of its learning rate."""
