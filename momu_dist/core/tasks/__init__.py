"""Training stages, one a file. The loss of a stage is here, and nowhere else."""
