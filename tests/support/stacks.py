"""The stacks of all threads, for the message of a test that timed out."""

import asyncio
import sys
import threading
import traceback

from tgdav.blobs.telegram import Session
from tgdav.blobs.telegram.flood_waits import method


def stacks() -> str:
    """Where each thread of this process is."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames = sys._current_frames().items()
    return "\n".join(f"{names.get(it)}:\n{''.join(traceback.format_stack(frame))}" for it, frame in frames)


def calls_under_way(session: Session | None) -> str:
    """What a session asks Telegram for just now, and where each call waits."""
    if session is None or session._loop is None or session._closing.is_set():
        return "no session"
    lines = [f"rest {session.backoff}"]
    for task in asyncio.all_tasks(session._loop):
        frame = getattr(task.get_coro(), "cr_frame", None)
        request = frame.f_locals.get("request") if frame else None
        if request is not None:
            where = [f"{it.f_code.co_qualname}:{it.f_lineno}" for it in task.get_stack()]
            lines.append(f"{method(type(request))} in {' > '.join(where)}")
    return "\n".join(lines)
