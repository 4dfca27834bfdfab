"""For the whole suite: the network of this machine isn't touched."""

from tests.appliance import leave_the_network


def pytest_configure() -> None:
    leave_the_network()
