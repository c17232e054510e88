"""Laws of the loss: their forms, their fit to tables of runs, and how well the fit is known."""
