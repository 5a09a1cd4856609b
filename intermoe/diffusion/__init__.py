"""The diffusion of latents: the schedule of noise, guidance, the samplers."""
