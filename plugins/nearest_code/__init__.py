"""NearestCode: the code of each latent, which is the nearest row of a table."""
