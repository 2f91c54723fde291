"""Training: the loop, the engines behind one contract, checkpoints, and the launchers with and without Ray."""
