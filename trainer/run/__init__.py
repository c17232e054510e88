"""One run: what is prepared before its ranks start, what one rank does, and what is written at the end."""
