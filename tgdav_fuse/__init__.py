"""The FUSE front end of tgdav: the file system as a mounted folder (pyfuse3 and trio live here alone).

It translates between the kernel and ``tgdav.fs.api`` and decides nothing. ``python -m tgdav_fuse`` is the program
``tgdav-fuse``; ``tgdav_fuse.mount`` hosts a mount inside any process that has a volume open.
"""
