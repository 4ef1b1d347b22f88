"""`python -m compress.benchmark`: how fast models are (`inference`) and their training (`train`)."""
