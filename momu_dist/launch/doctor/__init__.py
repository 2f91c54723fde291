"""`momu doctor`: what would fail in the queue, looked for on every node."""
