"""Golden tests of graph IR text, for the standard passes and for users' own."""
