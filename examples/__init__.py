"""Short programs from which the library can be learnt, one command each."""
