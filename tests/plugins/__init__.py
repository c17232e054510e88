"""Components from outside the packages: what a user may add, one module for each seam."""
