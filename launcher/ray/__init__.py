"""Starts runs on Ray: what is submitted, the driver that looks after the ranks, and a cluster of this machine alone."""
