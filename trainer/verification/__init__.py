"""A few steps of a config in one layout, and the reference on one process that they are compared with."""
