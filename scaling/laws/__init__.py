"""Laws of the loss: their forms, the runs that they are fitted to, and the fit."""
