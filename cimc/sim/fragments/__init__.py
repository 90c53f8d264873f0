"""Host fragments for many samples at once, with the bits of one sample at a time."""
