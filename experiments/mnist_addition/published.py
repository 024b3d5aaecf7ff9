"""The errors that the paper reports on MNIST addition."""

from experiments.classification.table import Published

# Jaderberg et al., arXiv:1506.02025, appendix A.1, in percent. The best of the other single
# transformers has 18.5.
PAPER = Published(
    "mnist",
    {
        "addition": {
            "fcn": 47.7,
            "cnn": 14.7,
            "st-fcn affine": 22.6,
            "2xst-fcn affine": 9.0,
            "2xst-fcn projective": 5.9,
            "2xst-fcn thin_plate_spline": 5.8,
        }
    },
)
