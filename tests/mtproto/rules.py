"""The limits that Telegram documents, and those nobody knows, as settings of a server."""

from dataclasses import dataclass

PART_MAX = 512 * 1024
SMALL_FILE_MAX = 10 * 1024 * 1024
WINDOW = 1024 * 1024
PAGE_MAX = 100


@dataclass
class Rules:
    """Numbers a test may change while the server runs. Times in seconds, 0 or None: no limit.

    `sends` is (messages, seconds): more in that time gets FLOOD_WAIT; `free_traffic` the bytes of files after which an
    account without Premium gets FLOOD_PREMIUM_WAIT of `premium_wait`. `media_first` lists media-only addresses before
    the main ones. `repeat_random_id` is the answer to a random_id that was used: the "first" answer once more, as the
    message is now, an "error", or the message's "id" alone.
    """

    parts_max: int = 4000
    parts_max_premium: int = 8000
    caption_max: int = 1024
    caption_max_premium: int = 4096
    text_max: int = 4096
    reference_lifetime: float = 0.0
    upload_lifetime: float = 0.0
    random_id_memory: float = 0.0
    repeat_random_id: str = "first"
    difference_kept: int = 10_000
    difference_page: int = 100
    login_token_lifetime: float = 30.0
    code_lifetime: float = 300.0
    account_days: int = 183
    duplicate_grace: float = 0.25
    sends: tuple[int, float] | None = None
    free_traffic: int | None = None
    premium_wait: int = 3
    media_first: bool = False
    published_api_ids: tuple[int, ...] = (4, 6, 2040, 17349)
    api_hash: str | None = None
    document_dc: int | None = None
