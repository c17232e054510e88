"""The checks of the acceptance program, one in each file: a function of a Context that returns what it measured."""
