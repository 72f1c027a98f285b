"""The methods of WebDAV, a module each. A handler is called as ``handler(context, request)``."""
