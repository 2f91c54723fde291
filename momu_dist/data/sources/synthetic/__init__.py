"""A composed dance class: music, and a dancer who follows rules about it, with the true times known."""
