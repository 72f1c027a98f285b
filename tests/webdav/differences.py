"""How a stock WsgiDAVApp with our provider differs from our own server."""

import pytest

OWN_SERVER_ONLY = frozenset(
    ("test_auth", "test_origin", "test_proxies", "test_public_url", "test_hashed_logins", "test_linear")
)
"""Modules about what the provider has no part in: logins, origins, proxies, parsers."""

DIFFERENCES: dict[str, str] = {}
"""Tests that must fail there, with the reason. ``module::test`` or ``module::test[parameters]``."""


def difference_of(item: pytest.Item) -> str:
    """Return why a test fails over the stock application; empty if it must not."""
    module = item.module.__name__.rpartition(".")[2]
    parameters = item.name.partition("[")[2].rstrip("]").split("-")
    rest = "-".join(each for each in parameters if each != "embedded")
    return DIFFERENCES.get(f"{module}::{item.originalname}") or DIFFERENCES.get(
        f"{module}::{item.originalname}[{rest}]", ""
    )
