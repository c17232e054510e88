"""In-run checks that ranks agree in what must be equal on them."""
