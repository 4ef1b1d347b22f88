"""Texts, one or two a sample: where they come from, their tokens, their batches, the benchmark."""
