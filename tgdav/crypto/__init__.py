"""Keys and sealing: derives keys from secrets, and encrypts everything that leaves the machine.

The passphrase or the recovery key unwraps the master key (``header``, ``slots``). The vault's keys are derived from it; they
wrap the secrets of namespaces (``keys``) and of this machine (``machine``). ``sealing`` and ``chunk_seal`` encrypt and
authenticate data, ``label`` the metadata of blobs. Nothing here does I/O or reads a clock; randomness is passed in.
"""
