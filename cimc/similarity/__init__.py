"""Which kernels of a layer are alike: distances and the criteria that prune by them.

Below everything else: it sees arrays only. Passes, training and the search inside the array
hold themselves against it.
"""
