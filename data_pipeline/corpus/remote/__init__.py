"""Corpora on a server: shards are downloaded into a cache on this machine when they are needed, or ahead of that."""
