"""Refusals as Telegram words them."""


class RpcFailure(Exception):
    """A call is answered with an RPC error: `code` and `text` as on https://core.telegram.org/api/errors."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.code = code
        self.text = text


def bad(text: str) -> RpcFailure:
    """The request itself is wrong (400)."""
    return RpcFailure(400, text)


class NoAnswer(Exception):
    """The call is done, or not, and nothing is sent back."""


class HangUp(Exception):
    """The connection ends here; `code` (for example -404) is sent first as a bare transport error."""

    def __init__(self, code: int | None = None) -> None:
        super().__init__(str(code))
        self.code = code


class GoSilent(Exception):
    """The connection stays open and never answers again, as a half-open TCP connection does."""
