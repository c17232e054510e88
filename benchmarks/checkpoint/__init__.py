"""How long saves hold up training, and what they cost, here and in other libraries."""
