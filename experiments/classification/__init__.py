"""What the experiments that predict a label share: settings, step, run, table."""
