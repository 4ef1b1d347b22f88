"""The running processes: ranks, Ctrl-C, memory, versions and provenance."""
