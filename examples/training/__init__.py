"""Code shared by the training scripts of the examples."""
