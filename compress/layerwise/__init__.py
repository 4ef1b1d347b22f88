"""Layer-wise distillation: terms beside the loss that compare student and teacher layer by layer."""
