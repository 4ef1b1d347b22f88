"""How much memory and disk a run needs, from shapes and settings alone; nothing is trained."""
