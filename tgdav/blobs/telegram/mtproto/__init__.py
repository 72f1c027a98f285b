"""One connection to one of Telegram's data centres: framing, message encryption, requests and their answers."""
