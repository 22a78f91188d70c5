"""For pytest: every process is a rank, also if it is alone."""

import pytest

from verdicts import configure


@pytest.hookimpl(trylast=True)  # once there is a reporter to silence
def pytest_configure(config):
    configure(config, not config.option.collectonly)
