"""Keys and sealing: everything that turns secrets into keys and plaintext into bytes that may leave the machine.

Passphrase and recovery key unwrap the master key (``header``); from it come the vault's keys, and under those the
namespaces' and this machine's (``keys``, ``machine``); ``sealing`` and ``chunk_seal`` close bytes under them, ``label``
makes captions. Nothing here reads a file, a clock, the network or a random source: entropy comes in as an argument.
"""
