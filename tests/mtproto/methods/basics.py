"""help.*, users.*, account.*: what a client asks before it does anything."""

from typing import Any

from telethon.tl import functions, types

from tests.mtproto.calls import Call, method
from tests.mtproto.errors import bad
from tests.mtproto.rules import PAGE_MAX

_HOST = "127.0.0.1"
_LIMITS = (
    "chat_size_max megagroup_size_max forwarded_count_max online_update_period_ms offline_blur_timeout_ms "
    "offline_idle_timeout_ms online_cloud_timeout_ms notify_cloud_delay_ms notify_default_delay_ms "
    "push_chat_period_ms push_chat_limit rating_e_decay stickers_recent_limit channels_read_media_period "
    "call_receive_timeout_ms call_ring_timeout_ms call_connect_timeout_ms call_packet_timeout_ms"
)
_NUMBERS = dict.fromkeys(_LIMITS.split(), 200)


def _options(call: Call) -> list[Any]:
    main = [types.DcOption(dc, _HOST, ports[0]) for dc, ports in call.world.ports.items()]
    media = [types.DcOption(dc, _HOST, ports[1], media_only=True) for dc, ports in call.world.ports.items()]
    return media + main if call.world.rules.media_first else main + media


@method(functions.help.GetConfigRequest, login=False)
def get_config(call: Call, request: Any) -> Any:
    """Addresses of the DCs, and limits as the caller's account has them."""
    rules, user = call.world.rules, call.authorization.user
    premium = user is not None and call.world.accounts.get(user).premium
    now = call.world.now()
    return types.Config(
        date=now,
        expires=now + 3600,
        test_mode=False,
        this_dc=call.connection.dc,
        dc_options=_options(call),
        dc_txt_domain_name="",
        edit_time_limit=172800,
        revoke_time_limit=2147483647,
        revoke_pm_time_limit=2147483647,
        me_url_prefix="https://t.me/",
        caption_length_max=rules.caption_max_premium if premium else rules.caption_max,
        message_length_max=rules.text_max,
        webfile_dc_id=call.connection.dc,
        **_NUMBERS,
    )


@method(functions.help.GetNearestDcRequest, login=False)
def get_nearest_dc(call: Call, request: Any) -> Any:
    """This one."""
    return types.NearestDc("NL", call.connection.dc, call.connection.dc)


@method(functions.help.GetAppConfigRequest, login=False)
def get_app_config(call: Call, request: Any) -> Any:
    """The limits that clients read from the application configuration."""
    rules = call.world.rules
    numbers = {
        "caption_length_limit_default": rules.caption_max,
        "caption_length_limit_premium": rules.caption_max_premium,
        "upload_max_fileparts_default": rules.parts_max,
        "upload_max_fileparts_premium": rules.parts_max_premium,
    }
    return types.help.AppConfig(
        1, types.JsonObject([types.JsonObjectValue(k, types.JsonNumber(v)) for k, v in numbers.items()])
    )


def _user_of(call: Call, given: Any) -> int:
    if isinstance(given, types.InputUserSelf):
        return call.user
    if isinstance(given, types.InputUser):
        return int(given.user_id)
    raise bad("USER_ID_INVALID")


@method(functions.users.GetUsersRequest)
def get_users(call: Call, request: Any) -> Any:
    """Those of the given users that exist."""
    if len(request.id) > PAGE_MAX:
        raise bad("LIMIT_INVALID")
    return [call.world.accounts.get(_user_of(call, given)).as_user(call.user) for given in request.id]


@method(functions.account.GetAccountTTLRequest)
def get_account_ttl(call: Call, request: Any) -> Any:
    """Days without use after which the account is deleted."""
    return types.AccountDaysTTL(call.world.rules.account_days)


@method(functions.account.UpdateStatusRequest)
def update_status(call: Call, request: Any) -> Any:
    """Noted."""
    return True


@method(functions.contacts.ResolveUsernameRequest)
def resolve_username(call: Call, request: Any) -> Any:
    """The channel of a public name."""
    channel = call.world.channels.named(request.username)
    if channel is None:
        raise bad("USERNAME_NOT_OCCUPIED")
    return types.contacts.ResolvedPeer(types.PeerChannel(channel.channel), [channel.as_chat(call.user)], [])
