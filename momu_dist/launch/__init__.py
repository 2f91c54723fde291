"""Ray inside an allocation of SLURM: brought up, watched, saved and requeued; and jobs that are submitted."""
