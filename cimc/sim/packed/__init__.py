"""The packed engine: the same programs on packed words, with compiled kernels."""
