"""The files of a corpus (shards, index, manifest) and its stream of tokens, read from a folder or from a server."""
