"""Scores, accuracies, F_bias, and what a reader opens afterwards."""
