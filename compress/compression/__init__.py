"""What a student loses and when: pruners, and their masks (ours, or DeepSpeed's library)."""
