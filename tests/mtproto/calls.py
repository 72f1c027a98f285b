"""From a request to its answer: unwrapping, the checks that every call passes, the faults that strike it, the method."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from telethon.tl import functions, types

from tests.mtproto.errors import GoSilent, HangUp, NoAnswer, RpcFailure, bad
from tests.mtproto.faults import Stroke
from tests.mtproto.state.accounts import Account, standing
from tests.mtproto.state.authorizations import Authorization, fresh_salt
from tests.mtproto.world import Online, World

_ANSWERS = {
    "internal": (500, "INTERNAL"),
    "timeout": (-503, "Timeout"),
    "rpc_call_fail": (500, "RPC_CALL_FAIL"),
    "worker_busy": (500, "WORKER_BUSY_TOO_LONG_RETRY"),
}
_ENDS = {
    "auth_key_unregistered": "401 AUTH_KEY_UNREGISTERED",
    "session_revoked": "401 SESSION_REVOKED",
    "session_expired": "401 SESSION_EXPIRED",
    "user_deactivated": "401 USER_DEACTIVATED_BAN",
}
_BEFORE = ("flood_wait", "flood_premium_wait", "error", *_ANSWERS, *_ENDS)
_LINE = ("dropped_connection", "half_open", "restart", "transport_404", "transport_429", "bad_salt")
_AFTER = ("lost_answer", "dropped_answer", "odd_answer")
_RULES = re.compile(
    "FILE_PART(S_INVALID|_SIZE_.*|_TOO_BIG|_INVALID|_EMPTY|_LENGTH_INVALID)|OFFSET_INVALID|LIMIT_INVALID|MEDIA_CAPTION_TOO_LONG|MESSAGE_TOO_LONG"
    "|MESSAGE_EMPTY|MESSAGE_IDS_EMPTY|RANDOM_ID_EMPTY|CONNECTION_NOT_INITED|PERSISTENT_TIMESTAMP_.*|INPUT_METHOD_INVALID.*|DC_ID_INVALID"
)


@dataclass
class Call:
    """One call under way: who calls, on which connection, in which world."""

    world: World
    connection: Online
    authorization: Authorization
    name: str

    @property
    def user(self) -> int:
        """The caller's user id."""
        if self.authorization.user is None:
            raise RpcFailure(401, "SESSION_PASSWORD_NEEDED" if self.authorization.pending else "AUTH_KEY_UNREGISTERED")
        return self.authorization.user

    @property
    def account(self) -> Account:
        """The caller's account."""
        return self.world.accounts.get(self.user)

    def strike(self, *kinds: str) -> Stroke | None:
        """A fault of one of `kinds`, if one hits this call."""
        return self.world.faults.strike(self.name, kinds)

    def violate(self, rule: str) -> None:
        """Counts a broken rule that the server mends by itself."""
        self.world.statistics.violations[rule] += 1


Handler = Callable[[Call, Any], Any]


@dataclass(frozen=True)
class Method:
    """An API method: its name as in the documentation, whether it needs a login, whether a frozen account may not call it."""

    name: str
    handler: Handler
    login: bool
    writes: bool


METHODS: dict[type, Method] = {}


def method_name(request: type) -> str:
    """`SaveFilePartRequest` of the family upload → "upload.saveFilePart"."""
    family = request.__module__.rpartition(".")[2]
    plain = request.__name__.removesuffix("Request")
    return ("" if family == "functions" else family + ".") + plain[0].lower() + plain[1:]


def method(request: type, *, login: bool = True, writes: bool = False) -> Callable[[Handler], Handler]:
    """Registers the function below as the method of a request class."""

    def register(handler: Handler) -> Handler:
        METHODS[request] = Method(method_name(request), handler, login, writes)
        return handler

    return register


def _unwrap(world: World, connection: Online, it: Authorization, request: Any) -> Any:
    """The innermost request, having noted layer, client and whether updates are wanted."""
    quiet = False
    while True:
        if isinstance(request, functions.InvokeWithLayerRequest):
            it.layer = request.layer
            world.authorizations.save(it)
        elif isinstance(request, functions.InvokeWithoutUpdatesRequest):
            quiet = True
        elif isinstance(request, functions.InitConnectionRequest):
            if request.api_id <= 0:
                raise bad("CONNECTION_API_ID_INVALID")
        elif not isinstance(request, functions.InvokeAfterMsgRequest | functions.InvokeAfterMsgsRequest):
            break
        request = request.query
    connection.wants_updates = connection.wants_updates or not quiet
    return request


def answer(world: World, connection: Online, it: Authorization, request: Any) -> Any:
    """The result of a call; raises RpcFailure for an error, NoAnswer, HangUp or GoSilent for what goes wrong with the line."""
    try:
        request = _unwrap(world, connection, it, request)
        found = METHODS.get(type(request))
        world.statistics.calls[method_name(type(request))] += 1
        if found is None:
            raise bad(f"INPUT_METHOD_INVALID_{request.CONSTRUCTOR_ID}_{method_name(type(request))}")
        if it.layer is None:
            raise bad("CONNECTION_NOT_INITED")
        return _run(Call(world, connection, it, found.name), found, request)
    except RpcFailure as failure:
        world.statistics.errors[failure.text] += 1
        if _RULES.fullmatch(failure.text):
            world.statistics.violations[failure.text] += 1
        raise


def _run(call: Call, found: Method, request: Any) -> Any:
    _admit(call, found)
    _line_faults(call, found)
    _answer_faults(call, found)
    late = call.world.faults.strike(found.name, _AFTER, drawn=found.login)
    value = found.handler(call, request)
    if late is not None and late.kind == "odd_answer":
        return types.help.NoAppUpdate()
    if late is not None:
        raise HangUp if late.kind == "dropped_answer" else NoAnswer
    return value


def _admit(call: Call, found: Method) -> None:
    it = call.authorization
    if it.refusal is not None and (found.login or it.refusal.startswith("406")):
        code, _, text = it.refusal.partition(" ")
        raise RpcFailure(int(code), text)
    if found.login:
        standing(call.account, writes=found.writes)
        due = call.world.flooded.get((call.user, found.name), 0.0) - time.monotonic()
        if due > 0:
            call.violate("called during a flood wait")
            raise RpcFailure(420, f"FLOOD_WAIT_{int(due) + 1}")


def _line_faults(call: Call, found: Method) -> None:
    stroke = call.world.faults.strike(found.name, _LINE, drawn=found.login)
    if stroke is None:
        return
    if stroke.kind == "bad_salt":
        call.authorization.salt = fresh_salt()
        call.world.authorizations.save(call.authorization)
    elif stroke.kind == "half_open":
        raise GoSilent
    elif stroke.kind == "restart":
        call.world.restart(float(stroke.parameters.get("pause", 0.1)))
        raise NoAnswer
    else:
        raise HangUp({"transport_404": -404, "transport_429": -429}.get(stroke.kind))


def _answer_faults(call: Call, found: Method) -> None:
    stroke = call.world.faults.strike(found.name, _BEFORE, drawn=found.login)
    if stroke is None:
        return
    if stroke.kind in _ANSWERS:
        raise RpcFailure(*_ANSWERS[stroke.kind])
    if stroke.kind == "error":
        raise RpcFailure(stroke.parameters.get("code", 400), stroke.parameters.get("text", "SOMETHING_NEW"))
    if stroke.kind in _ENDS:
        call.world.authorizations.end(call.authorization, _ENDS[stroke.kind])
        raise RpcFailure(401, _ENDS[stroke.kind].removeprefix("401 "))
    seconds = call.world.faults.wait(stroke)
    if stroke.kind == "flood_premium_wait":
        raise RpcFailure(420, f"FLOOD_PREMIUM_WAIT_{seconds}")
    if call.authorization.user is not None:
        call.world.flooded[call.user, found.name] = time.monotonic() + seconds - 0.05
    raise RpcFailure(420, f"FLOOD_WAIT_{seconds}")
