"""Training: from a configuration to a trained model, stopped and resumed at any step.

Owns the automatic configuration, the loop, the optimizer and their state. Refuses to know the terminal."""
