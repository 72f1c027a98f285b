"""The keys of the vault and of its namespaces, and the key box that contains a namespace's secret.

::

    master key ── HKDF ──► label · namespace wrap · machine wrap · header MAC        (VaultKeys)
    namespace secret
      ├─ lasting key ── HKDF ──► chunk ids · chunker seed · content tags · directory ids    (all epochs)
      └─ epoch key   ── HKDF ──► chunk root ── BLAKE3 ──► chunk keys · pack index · log    (one epoch)

``repr`` shows none of the keys. The layout of the key box is in ``docs/formats/keys.md``.
"""

import struct
from collections.abc import Mapping

from blake3 import blake3

from tgdav.crypto.derivation import KEY_BYTES, Purpose, derive
from tgdav.crypto.sealing import Data, Kind, Sealer, associated_data
from tgdav.entropy import Entropy
from tgdav.errors import DamageError
from tgdav.ids import ChunkId, ContentTag, EntryId, NamespaceId, NodeId, VaultId

KEY_BOX_VERSION = 1
KEY_BOX_STEP = 512
"""The plaintext of a key box is padded with zeros to a multiple of this, which hides the number of epochs."""
MAX_EPOCHS = 1000

_ID_BYTES = 16
_BOX_HEAD = struct.Struct(">16s32sH")
_BOX_EPOCH = struct.Struct(">I32s")


class VaultKeys:
    """The keys derived from the master key. Whoever has them can read the whole vault."""

    __slots__ = ("header_mac_key", "label_sealer", "machine_wrap", "namespace_wrap", "vault")

    def __init__(self, master: bytes, vault: VaultId) -> None:
        if len(master) != KEY_BYTES:
            raise ValueError("a master key has 32 bytes")
        self.vault = vault
        self.label_sealer = Sealer(derive(master, Purpose.VAULT_LABEL, vault))
        self.namespace_wrap = Sealer(derive(master, Purpose.VAULT_NAMESPACE_WRAP, vault))
        self.machine_wrap = Sealer(derive(master, Purpose.VAULT_MACHINE_WRAP, vault))
        self.header_mac_key = derive(master, Purpose.VAULT_HEADER_MAC, vault)


class NamespaceSecret:
    """The random keys of one namespace: one for all epochs, and one for each epoch (numbered from 1)."""

    __slots__ = ("epochs", "lasting_key", "namespace")

    def __init__(self, namespace: NamespaceId, lasting_key: bytes, epochs: Mapping[int, bytes]) -> None:
        if not 1 <= len(epochs) <= MAX_EPOCHS:
            raise ValueError(f"a namespace has 1 to {MAX_EPOCHS} epochs")
        self.namespace = namespace
        self.lasting_key = lasting_key
        self.epochs = dict(epochs)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NamespaceSecret):
            return NotImplemented
        return self.encode() == other.encode()

    def __hash__(self) -> int:
        return hash(self.encode())

    @property
    def current_epoch(self) -> int:
        """The epoch of new seals."""
        return max(self.epochs)

    def with_new_epoch(self, entropy: Entropy) -> "NamespaceSecret":
        """Return the secret with another epoch, which becomes the current one."""
        epochs = {**self.epochs, self.current_epoch + 1: entropy.bytes(KEY_BYTES)}
        return NamespaceSecret(self.namespace, self.lasting_key, epochs)

    def encode(self) -> bytes:
        """Return the plaintext of a key box."""
        head = _BOX_HEAD.pack(self.namespace, self.lasting_key, len(self.epochs))
        body = b"".join(_BOX_EPOCH.pack(epoch, key) for epoch, key in sorted(self.epochs.items()))
        used = len(head) + len(body)
        return head + body + bytes(-used % KEY_BOX_STEP)


def new_namespace_secret(namespace: NamespaceId, entropy: Entropy) -> NamespaceSecret:
    """Return new random keys for ``namespace``, at epoch 1."""
    return NamespaceSecret(namespace, entropy.bytes(KEY_BYTES), {1: entropy.bytes(KEY_BYTES)})


def wrap_namespace(vault_keys: VaultKeys, secret: NamespaceSecret, entropy: Entropy) -> bytes:
    """Return a key box: the secret, sealed under the vault's keys."""
    return vault_keys.namespace_wrap.seal(secret.encode(), _box_binding(vault_keys, secret.namespace), entropy)


def unwrap_namespace(vault_keys: VaultKeys, namespace: NamespaceId, box: Data) -> NamespaceSecret:
    """Return the secret in a key box. Raises ``DamageError`` when it was changed, or is that of another namespace."""
    plaintext = vault_keys.namespace_wrap.open(box, _box_binding(vault_keys, namespace), "key box")
    return _decode_secret(plaintext)


def later_key_box(vault_keys: VaultKeys, namespace: NamespaceId, box: Data) -> int | None:
    """Return the version of a key box made by a later program, else None; see ``Sealer.later_version``."""
    return vault_keys.namespace_wrap.later_version(box, lambda version: _box_binding(vault_keys, namespace, version))


def _box_binding(vault_keys: VaultKeys, namespace: NamespaceId, version: int = KEY_BOX_VERSION) -> bytes:
    return associated_data(vault_keys.vault, namespace, Kind.KEY_BOX, b"", version)


def _decode_secret(plaintext: bytes) -> NamespaceSecret:
    try:
        namespace, lasting_key, count = _BOX_HEAD.unpack_from(plaintext)
        end = _BOX_HEAD.size + count * _BOX_EPOCH.size
        epochs = dict(_BOX_EPOCH.iter_unpack(plaintext[_BOX_HEAD.size : end]))
        secret = NamespaceSecret(NamespaceId(namespace), lasting_key, epochs)
    except (struct.error, ValueError) as error:
        raise DamageError("key box: malformed", blob="key box") from error
    if secret.encode() != plaintext:
        raise DamageError("key box: malformed", blob="key box")
    return secret


class NamespaceKeys:
    """The derived keys of one namespace. Thread-safe; ``chunk_id`` and ``chunk_key`` cost microseconds."""

    __slots__ = (
        "_chunk_id_key",
        "_chunk_roots",
        "_content_tag_key",
        "_directory_entry_key",
        "_directory_node_key",
        "_log_keys",
        "_pack_index_keys",
        "chunker_seed",
        "current_epoch",
        "namespace",
    )

    def __init__(self, namespace: NamespaceId, secret: NamespaceSecret) -> None:
        if secret.namespace != namespace:
            raise ValueError("the secret belongs to another namespace")
        lasting = secret.lasting_key
        self.namespace = namespace
        self.current_epoch = secret.current_epoch
        self._chunk_id_key = derive(lasting, Purpose.NAMESPACE_CHUNK_ID, namespace)
        self._content_tag_key = derive(lasting, Purpose.NAMESPACE_CONTENT_TAG, namespace)
        self._directory_node_key = derive(lasting, Purpose.NAMESPACE_DIRECTORY_NODE, namespace)
        self._directory_entry_key = derive(lasting, Purpose.NAMESPACE_DIRECTORY_ENTRY, namespace)
        self.chunker_seed = int.from_bytes(derive(lasting, Purpose.NAMESPACE_CHUNKER_SEED, namespace, 8), "big")
        self._chunk_roots = _epoch_keys(secret, Purpose.EPOCH_CHUNK_ROOT)
        self._pack_index_keys = _epoch_keys(secret, Purpose.EPOCH_PACK_INDEX)
        self._log_keys = _epoch_keys(secret, Purpose.EPOCH_LOG)

    def chunk_id(self, plaintext: Data) -> ChunkId:
        """Return the chunk's id: equal in every epoch. Without the namespace's secret it reveals nothing about the content."""
        return ChunkId(blake3(plaintext, key=self._chunk_id_key).digest())

    def chunk_key(self, chunk_id: ChunkId, epoch: int) -> bytes:
        """Return the 32-byte key of this chunk. Raises ``DamageError`` for an unknown epoch."""
        return blake3(chunk_id, key=_of_epoch(self._chunk_roots, epoch)).digest()

    def pack_index_key(self, epoch: int) -> bytes:
        """Return the 32-byte key of pack indexes and trailers. Raises ``DamageError`` for an unknown epoch."""
        return _of_epoch(self._pack_index_keys, epoch)

    def log_key(self, epoch: int) -> bytes:
        """Return the 32-byte key of segments and checkpoint parts. Raises ``DamageError`` for an unknown epoch."""
        return _of_epoch(self._log_keys, epoch)

    def content_tag(self, manifest: Data) -> ContentTag:
        """Return the tag of an encoded manifest: equal content has an equal tag."""
        return ContentTag(blake3(manifest, key=self._content_tag_key).digest(16))

    def directory_id(self, parent: NodeId, name: bytes) -> NodeId:
        """Return the node id of the first directory called ``name`` in ``parent``.

        It is the same on every machine, so that directories created concurrently merge.
        """
        return NodeId(_named(self._directory_node_key, parent, name))

    def directory_entry_id(self, parent: NodeId, name: bytes) -> EntryId:
        """Return the entry id that belongs to ``directory_id(parent, name)``."""
        return EntryId(_named(self._directory_entry_key, parent, name))


def _epoch_keys(secret: NamespaceSecret, purpose: Purpose) -> dict[int, bytes]:
    return {epoch: derive(key, purpose, secret.namespace) for epoch, key in secret.epochs.items()}


def _of_epoch(keys: dict[int, bytes], epoch: int) -> bytes:
    try:
        return keys[epoch]
    except KeyError:
        raise DamageError(f"the namespace key number {epoch} is unknown", blob=f"epoch {epoch}") from None


def _named(key: bytes, parent: NodeId, name: bytes) -> bytes:
    if len(parent) != _ID_BYTES:
        raise ValueError("a node id has 16 bytes")
    return blake3(parent + name, key=key).digest(16)
