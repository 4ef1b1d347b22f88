"""The embedded benchmark: a grammar that generates it and the small encoder it starts from."""
