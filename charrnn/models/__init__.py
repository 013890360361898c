"""Models: the equations of every cell, the modules and kernels that run them, and what a prediction costs.

Owns what turns tokens into logits, in NumPy and in torch, and likelihoods. Refuses to know files, optimizers
and sampling."""
