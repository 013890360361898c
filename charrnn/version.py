"""The one place that says which version this is; read at build time, so it imports nothing."""

VERSION = "0.1.0"
