"""Layer-wise terms beside the loss hook: hidden states and attention."""
