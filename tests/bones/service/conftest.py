"""One service with its worker for all tests that only ask it."""

import pytest
from service_factory import client_of, settings_in


@pytest.fixture(scope="session")
def settings(tmp_path_factory):
    return settings_in(tmp_path_factory.mktemp("service"))


@pytest.fixture(scope="session")
def client(settings):
    with client_of(settings) as someone:
        yield someone
