"""Checkpoints in a folder of a server: object stores such as S3, and whatever else fsspec knows."""
