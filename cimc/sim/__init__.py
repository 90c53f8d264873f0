"""Running programs: the machine's state, the reference interpreter, host fragments, counts."""
