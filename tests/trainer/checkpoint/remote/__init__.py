"""Tests of checkpoints on a server, with a real S3 server over loopback."""
