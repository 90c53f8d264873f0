"""Placed graph to program: schedule (loop nests over blocks) and code."""
