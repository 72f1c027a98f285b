"""The content store: what files hold, cut into chunks, sealed, staged durably and sent to the blob store in packs.

Streams come in through ``store.ContentStore.open_stream`` and leave a manifest, which names chunks by their ids. This
room knows nothing of trees, names or the log: whoever records a manifest puts the chunk rows into the same transaction.
"""
