"""From what a user wants to jobs in the queue of SLURM."""
