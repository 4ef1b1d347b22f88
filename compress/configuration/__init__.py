"""JSON files become a checked, frozen configuration."""
