#!/usr/bin/env bash
# torch-interpol 0.3.0: grid_pull(bound="dst1") reads the first pixel of every axis, which is inside the image, as 0. The
# sine transform of type I continues an axis of n values antisymmetrically about the pixels −1 and n, which are 0: 1, 2,
# 3, 4 goes on as 0, −4, −3, −2, −1, 0, 1, …  Expected, with whole coordinates: the pixels themselves, as bound="dst2"
# gives them. Pad the image by hand where "dst1" is wanted.
#
# Output seen: dst1: 0 2 3 4 0 -4 -3 -2 -1 0 0; dst2: 1 2 3 4 -4 -3 -2 -1 1 2 3
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch-interpol==0.3.0 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from interpol import grid_pull

pixels = torch.arange(1.0, 5)[None, None]
places = torch.arange(11.0)[None, :, None]
read = {
    bound: grid_pull(pixels, places, interpolation=1, bound=bound, extrapolate=True).ravel().tolist()
    for bound in ("dst1", "dst2")
}
print("; ".join(f"{bound}: " + " ".join(f"{v + 0:.0f}" for v in each) for bound, each in read.items()))
assert read["dst2"][:4] == [1, 2, 3, 4]
assert read["dst1"][0] == 0 and read["dst1"][1:4] == [2, 3, 4]
PYTHON
