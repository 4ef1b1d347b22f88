"""Files on disk: artefacts, checksums, locks, a full disk, whose an output directory is."""
