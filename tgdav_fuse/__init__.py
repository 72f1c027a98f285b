"""The FUSE front end of tgdav (pyfuse3 and trio live here alone)."""
