"""What the server knows: accounts, authorizations, message boxes, documents.

All of it lives in a folder and survives a restart.
"""
