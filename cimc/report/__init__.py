"""Pictures of what pruning did to a model: similar kernels, those that went, operations, accuracy.

Takes graphs and curves, knows nothing of passes. `kernels.py` finds which kernels went,
`pictures.py` draws (with matplotlib, which is loaded there alone), `page.py` shows all of them.
"""
