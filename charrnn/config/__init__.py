"""Settings: what there is to choose, its default, and how it is read from YAML, KEY=VALUE and presets.

Owns names, types, defaults and messages about them. Refuses to know torch, texts and models."""
