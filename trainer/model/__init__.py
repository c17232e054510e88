"""The parameter table and the GPT built from it."""
