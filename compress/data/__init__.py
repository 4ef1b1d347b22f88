"""Texts and pairs of texts: where they come from, their tokens, their batches, the embedded benchmark."""
