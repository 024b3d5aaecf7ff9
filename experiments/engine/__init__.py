"""One training for every experiment: state, steps, devices, checkpoints, folders, command line."""
