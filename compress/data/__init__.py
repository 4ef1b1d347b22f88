"""Sentence pairs: where they come from, their tokens, their batches, the embedded benchmark."""
