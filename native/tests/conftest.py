"""Settings for all tests."""

import jax

jax.config.update("jax_enable_x64", True)


def pytest_addoption(parser):
    """``--every N``."""
    parser.addoption(
        "--every", type=int, default=1, help="run one test in so many, where a build is slow"
    )


def pytest_collection_modifyitems(config, items):
    """Takes one test in so many, of all kinds, since kinds alternate."""
    items[:] = items[:: config.getoption("every")]
