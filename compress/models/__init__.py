"""Encoders: found, loaded, taken apart by architecture, cut to real dimensions."""
