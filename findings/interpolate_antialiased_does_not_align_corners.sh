#!/usr/bin/env bash
# PyTorch 2.13.0: interpolate(antialias=True, align_corners=True) does not align the corners. The step between samples is
# that of aligned corners, (n − 1)/(m − 1) pixels, but the first sample lies half such a step from the image's edge, as
# with align_corners=False: pixel (i + 1/2) · step − 1/2. So the samples are not symmetric, the last lies beyond the
# image, and a ramp from 0 to 8 reduced to three samples is neither 0, 4, 8 (smoothed) nor 1.25, 4, 6.75. Its middle
# should be 4. Expected: samples at i · step, as without antialias. Use align_corners=False with antialias=True.
#
# Output seen: aligned [1.89, 5.39, 7.44], not aligned [1.25, 4.00, 6.75]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch

ramp = torch.arange(9.0)[None, None, None]


def reduced(align_corners):
    options = {"mode": "bilinear", "antialias": True, "align_corners": align_corners}
    return torch.nn.functional.interpolate(ramp, (1, 3), **options).ravel()


aligned, plain = reduced(True), reduced(False)
texts = (", ".join(f"{each:.2f}" for each in values) for values in (aligned, plain))
print("aligned [{}], not aligned [{}]".format(*texts))
assert abs(aligned[1] - 4) > 1
assert abs(plain[1] - 4) < 1e-6
# The mean over a triangle of half-width 4 pixels about pixel (1 + 1/2) · 4 − 1/2, cut off at the edge.
offset = (torch.arange(9.0) - 5.5) / 4
weights = (1 - offset.abs()).clamp(min=0)
assert abs((weights * ramp.ravel()).sum() / weights.sum() - aligned[1]) < 1e-5
PYTHON
