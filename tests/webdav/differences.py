"""How a stock WsgiDAVApp with our provider differs from our own server; docs/embedding.md explains each to users.

The suite runs over both. A test listed here must fail over the stock application (a strict ``xfail``): when a difference goes
away, the list has to say so.
"""

import pytest

OWN_SERVER_ONLY = frozenset(
    (
        "test_auth",
        "test_hashed_logins",
        "test_linear",
        "test_origin",
        "test_page",
        "test_proxies",
        "test_public_url",
    )
)
"""Modules about what the provider has no part in: logins, other sites, proxies, our page, the bounds of our parsers."""

CONTINUE = "the WSGI server sends 100 Continue before the application sees the request"
PATHS = "the WSGI server and WsgiDAV decode and normalize paths before the provider sees them, or give up on them"
PAGES = "WsgiDAV's directory browser answers GET on folders, and redirects to the URL with a final slash"
LOGINS = "WsgiDAV checks logins, with its own realm and nonces"
ERRORS = "WsgiDAV answers methods that it does not know, with a page of its own"
LOCKS = "WsgiDAV writes the response to a LOCK"

DIFFERENCES = {
    "test_checklist::test_coded_bodies": CONTINUE,
    "test_properties::test_locks_are_asked_first": CONTINUE,
    "test_checklist_names::test_a_final_slash_does_not_matter": PAGES,
    **{
        f"test_checklist_names::test_impossible_paths[{path}]": PATHS
        for path in ("/%FF", "/a%C3", "/a/../b", "/%2e%2e/b", "/a%2Fb", "/%zz", "/./a")
    },
    "test_clients::test_explorer": LOGINS,
    "test_content::test_every_answer_is_closed_to_other_sites": PAGES,
    "test_times::test_unknown_methods_are_refused_in_plain_words": ERRORS,
    "test_traps::test_lock_answers_are_readable": LOCKS,
}
"""``module::test`` or ``module::test[parameters]``, and why it differs."""

RACES = {"test_locks::test_a_folder_moved_into_a_locked_one_while_a_body_arrives": CONTINUE}
"""Tests whose outcome depends on which of two requests the application sees first; not run there."""


def mark_differences(item: pytest.Item) -> None:
    """Mark a test of the stock application as what must fail, where it differs."""
    name = f"{item.module.__name__.rpartition('.')[2]}::{item.originalname}"  # type: ignore[attr-defined]
    parameters = item.name.partition("[")[2][:-1].removeprefix("embedded").removeprefix("-").removesuffix("-embedded")
    if name in RACES:
        item.add_marker(pytest.mark.skip(reason=RACES[name]))
    reason = DIFFERENCES.get(name) or DIFFERENCES.get(f"{name}[{parameters}]")
    if reason is not None:
        item.add_marker(pytest.mark.xfail(strict=True, reason=reason))
