"""Masks of our own: zeroed weights for fixed masks, a masked layer for learned scores."""
