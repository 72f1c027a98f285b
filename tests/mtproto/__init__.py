"""An MTProto server on loopback that keeps Telegram's rules and misbehaves on command.

The unmodified Telethon client logs in to it, uploads, downloads, reads history and gets updates as it would from
Telegram. `wire` speaks the transport and the encryption, `state` is what survives a restart, `methods` holds the API by
families, `faults` the misbehaviour, `harness` the way in for tests; `python -m tests.mtproto` runs it as a process of
its own.
"""
