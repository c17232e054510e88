"""Laws of the loss: their forms, and their fit to tables of runs."""
