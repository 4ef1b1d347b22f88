"""The one training loop on DeepSpeed, and what a person watches."""
