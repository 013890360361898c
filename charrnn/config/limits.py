"""The largest values that settings may have: what can be trained can be loaded again, and nothing overflows."""

from __future__ import annotations

LARGEST = 10**12  # of counts and sizes
MAX_ORDER = 10  # of an n-gram model
MAX_TIME_SKIP = 1_000_000  # steps: the state holds as many hidden states
MAX_RATE = 1e6  # of learning rates, weight decay, L1 and clipping
MAX_SECONDS = 3.2e8  # ten years
MAX_NAME = 1 << 16  # characters of the name of a file or an encoding
MAX_GLOB = 1_000  # characters
