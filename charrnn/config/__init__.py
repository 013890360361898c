"""Settings: their names, types and defaults, and how they are read from YAML, KEY=VALUE and presets.

Owns the schema and the messages about invalid settings. Refuses to know torch, texts and models."""
