"""The verbs of the command line: one short function for each. Heavy imports wait until a verb needs them."""
