"""The command line: options to calls, errors to sentences. stdout is the product, stderr the conversation.

Owns everything that a terminal shows. Every other package is below it."""
