"""Published errors on the German traffic signs."""

from experiments.classification.table import Published

# Arcos-García, Álvarez-García and Soria-Morillo, Neural Networks 99, 2018; errors in percent: 100
# minus the accuracies that they report.
PAPER = Published(
    "gtsrb",
    {"signs": {"deep-cnn": 1.15, "st-deep-cnn affine": 0.54, "st-deep-st-cnn affine": 0.33}},
)
