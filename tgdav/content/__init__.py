"""The content store: files' content is cut into chunks, sealed, staged durably, and sent to the blob store in packs.

New content enters through ``store.ContentStore.open_stream`` and becomes a manifest, which names chunks by their ids. This
package knows nothing of directories, names or the log: the caller that records a manifest puts the chunk rows into the same
transaction.
"""
