"""The one training loop on DeepSpeed, what it knows of each sample, what a person watches."""
