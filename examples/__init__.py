"""Short programs to learn the library from, one command each."""
