"""What the caller of a request may do beyond its user and group, as Linux tells in /proc/PID/status."""

from pathlib import Path

from pyfuse3 import RequestContext

_CAP_FSETID, _CAP_SYS_ADMIN = 4, 21


def is_administrator(ctx: RequestContext) -> bool:
    """Return whether the caller has CAP_SYS_ADMIN; root has it where nothing can be asked."""
    return _has(_status(ctx.pid), _CAP_SYS_ADMIN, otherwise=ctx.uid == 0)


def may_keep_group_id(ctx: RequestContext, group: int) -> bool:
    """Return whether a file of ``group`` keeps setgid when the caller changes its permissions."""
    if ctx.gid == group:
        return True
    status = _status(ctx.pid)
    return str(group) in status.get("Groups", "").split() or _has(status, _CAP_FSETID, otherwise=ctx.uid == 0)


def _status(process: int) -> dict[str, str]:
    try:
        lines = Path(f"/proc/{process}/status").read_text(errors="replace").splitlines()
    except OSError:
        return {}
    return {name: value for name, _, value in (line.partition(":") for line in lines)}


def _has(status: dict[str, str], capability: int, *, otherwise: bool) -> bool:
    effective = status.get("CapEff", "").strip()
    return bool(int(effective, 16) >> capability & 1) if effective else otherwise
