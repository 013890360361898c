"""Checkpoints: model files and run folders.

Owns what is written where, in which order, and that a file is believed only once it was checked. Refuses to know
training."""
