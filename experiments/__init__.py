"""Training scripts and what they share; the library itself is `stn_jax`."""
