"""What a model gets right: scores over splits, accuracies, relative bias and its intervals."""
