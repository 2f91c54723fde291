"""The diffusion process: noise schedule, samplers and guidance. No weights live here."""
