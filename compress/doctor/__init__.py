"""`python -m compress.doctor`: whether the machines of a run are ready for it, before it is started."""
