"""Texts: from files and streams to a vocabulary, splits, and windows of a batch on the training device.

Owns encodings, the vocabulary, the split and the order in which training reads. Refuses to know models."""
