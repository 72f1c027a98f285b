"""Logging in by QR code (https://core.telegram.org/api/qr-login)."""

import os
from typing import Any

from telethon.tl import functions, types

from tests.mtproto.calls import Call, method
from tests.mtproto.errors import bad
from tests.mtproto.methods.auth import check_application, enter
from tests.mtproto.world import LoginToken, World


@method(functions.auth.ExportLoginTokenRequest, login=False)
def export_login_token(call: Call, request: Any) -> Any:
    """A fresh token; once it was scanned, the login itself, or the DC to go to for it."""
    check_application(call, request)
    now = call.world.now()
    for token, it in list(call.world.login_tokens.items()):
        if it.shown_by is call.authorization and it.user is not None:
            account = call.world.accounts.get(it.user)
            if account.dc != call.connection.dc:
                return types.auth.LoginTokenMigrateTo(account.dc, token)
            del call.world.login_tokens[token]
            return types.auth.LoginTokenSuccess(enter(call, account))
        if it.expires < now:
            del call.world.login_tokens[token]
    token = os.urandom(32)
    call.world.login_tokens[token] = LoginToken(call.authorization, now + call.world.rules.login_token_lifetime)
    return types.auth.LoginToken(int(now + call.world.rules.login_token_lifetime), token)


@method(functions.auth.ImportLoginTokenRequest, login=False)
def import_login_token(call: Call, request: Any) -> Any:
    """Redeems a scanned token at the account's own DC."""
    it = call.world.login_tokens.pop(request.token, None)
    if it is None or it.user is None:
        raise bad("AUTH_TOKEN_INVALID")
    return types.auth.LoginTokenSuccess(enter(call, call.world.accounts.get(it.user)))


@method(functions.auth.AcceptLoginTokenRequest)
def accept_login_token(call: Call, request: Any) -> Any:
    """What a logged-in application does when it scans a code."""
    scan(call.world, request.token, call.user)
    now = call.world.now()
    return types.Authorization(1, "tests", "", "", 1, "", "", now, now, "127.0.0.1", "", "")


def scan(world: World, token: bytes, user: int) -> None:
    """The user scans a code; who shows it is told."""
    it = world.login_tokens.get(token)
    if it is None:
        raise bad("AUTH_TOKEN_INVALID")
    if it.expires < world.now():
        raise bad("AUTH_TOKEN_EXPIRED")
    if it.user is not None:
        raise bad("AUTH_TOKEN_ALREADY_ACCEPTED")
    it.user = user
    for connection in list(world.online):
        if connection.authorization is it.shown_by and connection.wants_updates and not connection.media:
            connection.push(types.UpdateShort(types.UpdateLoginToken(), world.now()))
