"""A store of blobs in Saved Messages or in a private channel of a Telegram account.

The only package that imports Telethon. A blob is a document: its file name is the blob's name in hexadecimal digits,
its caption the label, and the id of its message the blob's id. All other messages in the chat are the user's own; they
are neither read nor changed.

From bottom to top: ``mtproto`` (a connection), ``session`` (a login), ``messages`` and ``history`` (which messages are
blobs), ``transfers``, ``updates``, ``store``, and the wrappers ``account_store`` and ``rate_limit``.
"""

from tgdav.blobs.telegram.flood_waits import FloodWaits
from tgdav.blobs.telegram.session import Session
from tgdav.blobs.telegram.settings import TelegramProxy, TelegramSettings, TelegramTestServer
from tgdav.blobs.telegram.store import TelegramStore

__all__ = ["FloodWaits", "Session", "TelegramProxy", "TelegramSettings", "TelegramStore", "TelegramTestServer"]
