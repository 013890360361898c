"""Evaluation: bits per character of any text, by any model, and the baselines beside it.

Owns scoring, one-sided, two-sided and dynamic. Refuses to know optimizers and the terminal."""
