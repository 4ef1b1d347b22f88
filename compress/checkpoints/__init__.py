"""State of unfinished work: what a stage needs to go on where it was interrupted."""
