"""Models: the equations of every cell, the modules and kernels that run them, and the losses.

Owns the way from tokens to logits and likelihoods, in NumPy and in torch. Refuses to know files, optimizers and
sampling."""
