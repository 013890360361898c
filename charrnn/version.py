"""The one place that says which version this is; read at build time, so it imports nothing."""

from __future__ import annotations

VERSION = "0.1.0"
