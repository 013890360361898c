"""Texts: from files and streams to a vocabulary, splits, and batches on the training device.

Owns encodings, the vocabulary, the splits and the order in which training reads. Refuses to know models."""
