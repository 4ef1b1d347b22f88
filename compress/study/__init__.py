"""A study: tasks x compressions x mitigations x seeds, from one JSON file to one report."""
