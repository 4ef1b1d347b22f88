"""`python -m compress.benchmark`: speed of models (`inference`) and trainings (`train`, `steps`)."""
