"""One file a pruner: its block of `compression_training`, its checks, its masks, its state.

`compress.compression.settings` walks this folder, so a new pruner is one new file.
"""
