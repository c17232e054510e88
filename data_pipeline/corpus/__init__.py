"""The files of a corpus: shards, index, manifest, and the stream of tokens in them, from a folder or a server."""
