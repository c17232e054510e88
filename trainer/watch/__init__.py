"""Notices a run that hangs and a rank that is slower than its peers, and says which rank is the cause."""
