"""Which indices of tensors belong together as channels, what is known of them without running,
and how they are taken out of a graph."""
