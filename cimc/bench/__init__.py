"""`cimc bench` and `cimc profile`: how fast programs run here, as ratios that were measured in
one go. Comes after the API, which it measures, and before the command line, which calls it.
Nothing else knows of it."""
