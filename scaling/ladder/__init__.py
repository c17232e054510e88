"""Ladders: proxies of one config, of growing size, whose losses predict that of the config itself."""
