"""The version, defined here only. Read at build time, so this module imports nothing."""

from __future__ import annotations

VERSION = "0.1.0"
