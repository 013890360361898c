"""Evaluation: bits per character of any text under any model, and baselines to compare with.

Owns scoring: forward, two-sided (cloze) and dynamic. Refuses to know optimizers and the terminal."""
