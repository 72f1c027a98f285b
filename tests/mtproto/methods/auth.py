"""auth.* and account.getPassword: logging in by code and password, moving a login to another DC, logging out."""

import os
from typing import Any

from telethon.tl import functions, types

from tests.mtproto.calls import Call, method
from tests.mtproto.errors import RpcFailure, bad
from tests.mtproto.state.accounts import Account, PasswordProof

HASH_LENGTH = 32


def check_application(call: Call, request: Any) -> None:
    """Refuses api ids that are wrong or published in somebody's source."""
    rules = call.world.rules
    if request.api_id in rules.published_api_ids:
        raise bad("API_ID_PUBLISHED_FLOOD")
    if request.api_id <= 0 or len(request.api_hash) != HASH_LENGTH or rules.api_hash not in (None, request.api_hash):
        raise bad("API_ID_INVALID")


@method(functions.auth.SendCodeRequest, login=False)
def send_code(call: Call, request: Any) -> Any:
    """Sends the account's code, in name; PHONE_MIGRATE_X for an account of another DC."""
    check_application(call, request)
    phone = request.phone_number.lstrip("+")
    if not phone.isdigit() or not 7 <= len(phone) <= 15:
        raise bad("PHONE_NUMBER_INVALID")
    account = call.world.accounts.find(phone)
    if account is not None and account.status == "banned":
        raise bad("PHONE_NUMBER_BANNED")
    if account is not None and account.dc != call.connection.dc:
        raise RpcFailure(303, f"PHONE_MIGRATE_{account.dc}")
    name = os.urandom(9).hex()
    call.world.codes[phone] = (name, call.world.now() + call.world.rules.code_lifetime)
    length = len(account.code) if account is not None else 5
    return types.auth.SentCode(types.auth.SentCodeTypeApp(length), name, timeout=120)


@method(functions.auth.ResendCodeRequest, login=False)
def resend_code(call: Call, request: Any) -> Any:
    """The same code again."""
    phone = request.phone_number.lstrip("+")
    if call.world.codes.get(phone, ("", 0))[0] != request.phone_code_hash:
        raise bad("PHONE_CODE_EXPIRED")
    return types.auth.SentCode(types.auth.SentCodeTypeSms(5), request.phone_code_hash, timeout=120)


@method(functions.auth.SignInRequest, login=False)
def sign_in(call: Call, request: Any) -> Any:
    """Logs in, or asks for the password."""
    phone = request.phone_number.lstrip("+")
    if not request.phone_code:
        raise bad("PHONE_CODE_EMPTY")
    name, until = call.world.codes.get(phone, ("", 0.0))
    if name != request.phone_code_hash or call.world.now() > until:
        raise bad("PHONE_CODE_EXPIRED")
    account = call.world.accounts.find(phone)
    if account is None:
        return types.auth.AuthorizationSignUpRequired()
    if request.phone_code != account.code:
        raise bad("PHONE_CODE_INVALID")
    del call.world.codes[phone]
    return enter(call, account)


def enter(call: Call, account: Account) -> Any:
    """Logs the caller's key in as the account; 401 SESSION_PASSWORD_NEEDED if it has a password."""
    if account.status and account.status != "frozen":
        raise RpcFailure(401, "USER_DEACTIVATED_BAN" if account.status == "banned" else account.status)
    if account.password is not None:
        call.authorization.pending = account.user
        call.world.authorizations.save(call.authorization)
        raise RpcFailure(401, "SESSION_PASSWORD_NEEDED")
    return _welcome(call, account)


def _welcome(call: Call, account: Account) -> Any:
    call.world.authorizations.log_in(call.authorization, account.user)
    return types.auth.Authorization(account.as_user(account.user))


def _half_logged_in(call: Call) -> Account:
    user = call.authorization.user or call.authorization.pending
    if user is None:
        raise RpcFailure(401, "AUTH_KEY_UNREGISTERED")
    return call.world.accounts.get(user)


@method(functions.account.GetPasswordRequest, login=False)
def get_password(call: Call, request: Any) -> Any:
    """The parameters of the password proof."""
    account = _half_logged_in(call)
    fresh = types.PasswordKdfAlgoUnknown(), types.SecurePasswordKdfAlgoUnknown(), os.urandom(32)
    if account.password is None:
        return types.account.Password(*fresh)
    proof: PasswordProof = call.world.accounts.proof(account)
    name, public = proof.offer()
    return types.account.Password(*fresh, has_password=True, current_algo=proof.algorithm, srp_B=public, srp_id=name)


@method(functions.auth.CheckPasswordRequest, login=False)
def check_password(call: Call, request: Any) -> Any:
    """Completes a login that waits for the password."""
    account = _half_logged_in(call)
    call.world.accounts.proof(account).check(request.password)
    return _welcome(call, account)


@method(functions.auth.ExportAuthorizationRequest)
def export_authorization(call: Call, request: Any) -> Any:
    """A ticket with which another key, at another DC, logs in as the caller."""
    if request.dc_id not in call.world.ports or request.dc_id == call.connection.dc:
        raise bad("DC_ID_INVALID")
    ticket = os.urandom(32)
    call.world.exported[ticket] = (call.user, request.dc_id)
    return types.auth.ExportedAuthorization(call.user, ticket)


@method(functions.auth.ImportAuthorizationRequest, login=False)
def import_authorization(call: Call, request: Any) -> Any:
    """Logs in by a ticket; each works once."""
    user, dc = call.world.exported.pop(request.bytes, (0, 0))
    if user != request.id or dc != call.connection.dc:
        raise bad("AUTH_BYTES_INVALID")
    return _welcome(call, call.world.accounts.get(user))


@method(functions.auth.LogOutRequest)
def log_out(call: Call, request: Any) -> Any:
    """Ends the login of the caller's key."""
    call.world.authorizations.end(call.authorization, None)
    return types.auth.LoggedOut()


@method(functions.auth.ResetAuthorizationsRequest)
def reset_authorizations(call: Call, request: Any) -> Any:
    """Ends every other login of the account."""
    for it in call.world.authorizations.of(call.user):
        if it is not call.authorization:
            call.world.authorizations.end(it, "401 SESSION_REVOKED")
    return True
