"""Tools for developers, outside of the installed packages."""
