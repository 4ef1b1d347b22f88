"""A run goes through them in order: teacher, difficulty, student, results."""
