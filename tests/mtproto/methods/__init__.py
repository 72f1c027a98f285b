"""The API methods by families; importing this package registers them all."""

from tests.mtproto.methods import auth, basics, channels, editing, login_tokens, reading, sending, updates, upload

__all__ = ["auth", "basics", "channels", "editing", "login_tokens", "reading", "sending", "updates", "upload"]
