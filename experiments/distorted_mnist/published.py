"""The errors that the paper reports on distorted MNIST."""

from experiments.classification.table import Published

# Jaderberg et al., arXiv:1506.02025, in percent: the left part of table 1. For TC the text gives
# one number for all models of a kind.
PAPER = Published(
    "mnist",
    {
        "R": {
            "fcn": 2.1,
            "cnn": 1.2,
            "st-fcn affine": 1.2,
            "st-fcn projective": 1.3,
            "st-fcn thin_plate_spline": 1.1,
            "st-cnn affine": 0.7,
            "st-cnn projective": 0.8,
            "st-cnn thin_plate_spline": 0.7,
        },
        "RTS": {
            "fcn": 5.2,
            "cnn": 0.8,
            "st-fcn affine": 0.8,
            "st-fcn projective": 0.9,
            "st-fcn thin_plate_spline": 0.8,
            "st-cnn affine": 0.5,
            "st-cnn projective": 0.6,
            "st-cnn thin_plate_spline": 0.5,
        },
        "P": {
            "fcn": 3.1,
            "cnn": 1.5,
            "st-fcn affine": 1.5,
            "st-fcn projective": 1.4,
            "st-fcn thin_plate_spline": 1.4,
            "st-cnn affine": 0.8,
            "st-cnn projective": 0.8,
            "st-cnn thin_plate_spline": 0.8,
        },
        "E": {
            "fcn": 3.2,
            "cnn": 1.4,
            "st-fcn affine": 2.7,
            "st-fcn projective": 2.6,
            "st-fcn thin_plate_spline": 2.4,
            "st-cnn affine": 1.2,
            "st-cnn projective": 1.3,
            "st-cnn thin_plate_spline": 1.1,
        },
        "TC": {"fcn": 13.2, "cnn": 3.5, "st-fcn": 2.0, "st-cnn": 1.7},
    },
)
