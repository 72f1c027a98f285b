"""tgdav: an encrypted drive in a chat account, served over WebDAV and mounted by FUSE."""

__version__ = "0.1.0"
