"""Tests of tasks: their problems, their tokens, and what an evaluation finds of them."""
