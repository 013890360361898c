"""Generation: sampling, beam search and infilling, and the constraints on them.

Owns the choice of each character. Refuses to know files, the terminal and torch."""
