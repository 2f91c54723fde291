"""Audio: log mel, onsets and the vocoder contract."""
