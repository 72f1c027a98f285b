"""The MTProto transport: TCP frames, key exchange, encryption and the packing of messages."""
