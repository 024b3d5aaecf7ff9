"""Transforms on a mesh of eight devices; ``mesh_laws.py`` runs in a new process."""

import pytest
from families import MEMBERS
from mesh_laws import MODES, told_on_eight_devices


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_as_on_one_device(mode, request):
    told_on_eight_devices(request.node, mode, MEMBERS)
