"""Checkpoints: model files and run folders.

Owns what is written where and in which order, and that a file is checked before it is trusted. Refuses to know
training."""
