"""Archives, repositories and trees for programs to work on, made from a seed."""

import io
import os
import random
import subprocess
import tarfile
from pathlib import Path

GIT = ("git", "-c", "user.name=n", "-c", "user.email=e", "-c", "safe.directory=*", "-c", "gc.auto=0")


def run(*words: str | Path, cwd: Path | None = None, data: bytes | None = None) -> str:
    """Run a program and return its standard output. Raises AssertionError with its output if it fails."""
    done = subprocess.run([str(word) for word in words], cwd=cwd, input=data, capture_output=True, check=False)
    assert done.returncode == 0, (words, done.returncode, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout.decode(errors="surrogateescape")


def git(*words: str | Path, cwd: Path) -> str:
    """Run git in ``cwd``."""
    return run(*GIT, *words, cwd=cwd)


def make_archive(path: Path, files: int, seed: int) -> None:
    """Write a tar like that of a source tree: ``files`` files, 40 a directory, with links, modes and odd times."""
    choose = random.Random(seed)
    with tarfile.open(path, "w") as archive:
        for number in range(files):
            directory = f"tree/part-{number // 1600}/directory-{number // 40}"
            if number % 40 == 0:
                archive.addfile(_member(directory, choose, tarfile.DIRTYPE))
            member = _member(f"{directory}/file-{number}.c", choose, tarfile.REGTYPE)
            content = choose.randbytes(8) * (choose.randrange(1, 1500) if number % 50 else 40_000)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
            if number % 40 == 39:
                link = _member(f"{directory}/soft", choose, tarfile.SYMTYPE)
                link.linkname = f"file-{number}.c"
                archive.addfile(link)
                link = _member(f"{directory}/hard", choose, tarfile.LNKTYPE)
                link.linkname = member.name
                archive.addfile(link)


def _member(name: str, choose: random.Random, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.mtime = kind, choose.randrange(10**8, 17 * 10**8)
    member.mode = 0o755 if kind == tarfile.DIRTYPE else choose.choice([0o644, 0o600, 0o755, 0o444])
    return member


def make_repository(path: Path, files: int, commits: int, seed: int) -> None:
    """Make a repository of ``files`` files with ``commits`` commits, by git fast-import."""
    choose = random.Random(seed)
    path.mkdir()
    git("init", "-q", "-b", "main", cwd=path)
    stream = io.BytesIO()
    for number in range(commits):
        stream.write(b"commit refs/heads/main\ncommitter n <e> %d +0000\ndata 1\nc\n" % (10**9 + number))
        changed = range(files) if number == 0 else {choose.randrange(files) for _ in range(files // 20 + 1)}
        for file in changed:
            content = b"".join(b"line %d\n" % choose.randrange(1000) for _ in range(choose.randrange(1, 400)))
            stream.write(
                b"M 100644 inline directory-%d/file-%d\ndata %d\n" % (file // 50, file, len(content)) + content + b"\n"
            )
    run(*GIT, "fast-import", "--quiet", cwd=path, data=stream.getvalue())
    git("reset", "-q", "--hard", "main", cwd=path)


def make_rich_tree(directory: Path, files: int, seed: int) -> None:
    """Make a tree with everything that ``rsync -aHAX`` keeps: links, xattrs, ACLs, modes, times, a sparse file."""
    choose = random.Random(seed)
    acl = bytes.fromhex("0200000001000600ffffffff02000400e803000004000400ffffffff10000400ffffffff20000400ffffffff")
    for number in range(files):
        below = directory / f"directory-{number % 7}"
        below.mkdir(parents=True, exist_ok=True)
        file = below / f"file-{number} ü"
        file.write_bytes(choose.randbytes(choose.randrange(5000)))
        if number % 5 == 0:
            os.link(file, below / f"hard-{number}")
            os.symlink(file.name, below / f"soft-{number}")
        if number % 6 == 0:
            os.setxattr(file, "user.note", choose.randbytes(50))
        if number % 7 == 0:
            os.setxattr(file, "system.posix_acl_access", acl)
        os.utime(file, ns=(number, choose.randrange(10**18)))
    with open(directory / "sparse", "wb") as sparse:
        sparse.seek(3 << 20)
        sparse.write(b"end")
    os.mkfifo(directory / "fifo")
