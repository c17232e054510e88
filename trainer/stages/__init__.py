"""The cost of each layer, by which layers are divided among pipeline stages."""
