"""What a run needs of memory and disk, and what a step sends, from shapes and settings alone."""
