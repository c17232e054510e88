"""Starts runs on Ray: the submission, the driver that supervises the ranks, and a private cluster of one machine."""
