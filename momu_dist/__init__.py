"""momu_dist: train, trust and serve MoMu-Diffusion on a cluster."""

__version__ = "0.1.0"
