"""The time grid that mel, motion and amplitude share: 62.5 frames a second of 16 kHz audio."""

from __future__ import annotations

SAMPLE_RATE = 16000
HOP = 256
N_MELS = 80
MEL_RATE_HZ = SAMPLE_RATE / HOP
