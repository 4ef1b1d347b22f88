"""What a student loses and when, and DeepSpeed's compression library behind one seam."""
