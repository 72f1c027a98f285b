"""Saved Messages, or a private channel, of a Telegram account as a store of blobs.

The one room that knows Telethon. A blob is a document: its file name is the blob's name in hexadecimal digits, its
caption the label, its message's number the blob's id. Everything else in the chat is the user's own and is left alone.
"""

from tgdav.blobs.telegram.flood_waits import FloodWaits
from tgdav.blobs.telegram.session import Session
from tgdav.blobs.telegram.settings import TelegramProxy, TelegramSettings, TelegramTestServer
from tgdav.blobs.telegram.store import TelegramStore

__all__ = ["FloodWaits", "Session", "TelegramProxy", "TelegramSettings", "TelegramStore", "TelegramTestServer"]
