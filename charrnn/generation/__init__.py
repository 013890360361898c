"""Generation: writing text with a model, by sampling, beam search or infilling, under constraints.

Owns the choice of each character. Refuses to know files, the terminal and torch."""
