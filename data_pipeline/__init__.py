"""The corpus and the token stream: text to shards, shards to batches."""
