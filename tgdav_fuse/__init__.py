"""The FUSE front end: the file system as a mounted directory. Only this package imports pyfuse3 and trio.

It translates between the kernel and ``tgdav.fs.api``. ``python -m tgdav_fuse`` is the program
``tgdav-fuse``; ``tgdav_fuse.mount`` hosts a mount inside any process that has a volume open.
"""
