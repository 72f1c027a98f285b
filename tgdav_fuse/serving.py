"""A mount inside this process, from mounting to its end."""

from tgdav_fuse.operations import TgdavOperations

__all__ = ["TgdavOperations"]
