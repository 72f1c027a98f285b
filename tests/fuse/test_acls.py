"""POSIX ACLs on a mount, compared with a real ext4: access of each user, inheritance, the effect of chmod."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.mounts import MountedVault

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or any(shutil.which(each) is None for each in ("setpriv", "setfacl")),
    reason="acting as other users needs root, util-linux and acl",
)

PRELUDE = """
as() { user=$1; shift; setpriv --reuid=$user --regid=$user --clear-groups "$@" 2>&1; echo "$user: $* = $?"; }
in_group() { user=$1 group=$2; shift 2; setpriv --reuid=$user --regid=$user --groups=$group "$@" 2>&1; echo "$user: $* = $?"; }
show() { getfacl -n "$@"; stat -c '%n %A %u:%g' "$@"; }
umask 022
"""

SCENES = {
    "a named user is granted and denied access": """
        echo content > file; chmod 600 file; as 1001 cat file
        setfacl -m u:1001:r file; show file; as 1001 cat file; as 1001 sh -c 'echo x > file'; as 1002 cat file
        setfacl -m u:1001:rw file; as 1001 sh -c 'echo x > file'; cat file
        chmod 644 file; setfacl -m u:1001:- file; show file; as 1001 cat file; as 1002 cat file
        setfacl -x u:1001 file; as 1001 cat file; setfacl -b file; show file; as 1001 cat file
    """,
    "a named group": """
        echo content > file; chmod 600 file; setfacl -m g:2000:r file; show file
        as 1001 cat file; in_group 1001 2000 cat file; in_group 1001 2000 sh -c 'echo x > file'
        mkdir dir; chmod 700 dir; setfacl -m g:2000:rwx dir; in_group 1001 2000 touch dir/new
        as 1002 ls dir; in_group 1002 2000 ls dir; in_group 1002 2000 rm dir/new; ls dir
    """,
    "the mask bounds all but owner and others": """
        echo content > file; chmod 660 file; chown 1003:2000 file; setfacl -m u:1001:rw,g:2001:rw,m::r file; show file
        as 1001 sh -c 'echo x > file'; as 1001 cat file; in_group 1002 2001 sh -c 'echo x > file'; as 1003 sh -c 'echo y > file'
        in_group 1004 2000 sh -c 'echo z > file'; setfacl -m m::rw file; in_group 1004 2000 sh -c 'echo z > file'; cat file
    """,
    "chmod changes the mask, and copies do not grant more access": """
        echo content > file; setfacl -m u:1001:rw file; show file
        chmod 600 file; show file; as 1001 cat file; cp -a file copy; show copy; as 1001 cat copy
        tar --acls --numeric-owner -cf t.tar file; mkdir out; tar --acls --numeric-owner -C out -xpf t.tar; show out/file
        as 1001 cat out/file; rsync -aA file synced; show synced
        chmod 664 file; show file; as 1001 cat file; chmod g= file; show file; chmod u=r,o=w file; show file
        chmod 4755 file; show file; chown 1005:1005 file; show file
    """,
    "a default ACL is inherited, whatever the umask": """
        mkdir dir; setfacl -d -m u:1001:rwx,g:2000:rx,o:- dir; show dir; umask 077
        touch dir/file; mkdir dir/below; mkfifo dir/fifo; ln -s file dir/link
        show dir/file dir/below dir/fifo
        touch dir/below/file; mkdir dir/below/deep; show dir/below/file dir/below/deep
        stat -c %A dir/link; mknod dir/device c 1 3; show dir/device; as 1001 cat dir/file; as 1002 cat dir/file
        cp /bin/true dir/program; show dir/program; mkdir -m 700 dir/private; show dir/private
        umask 022; setfacl -k dir; touch dir/plain; show dir dir/plain
    """,
    "a default ACL without names is a mode": """
        mkdir dir; setfacl -d -m u::rwx,g::r-x,o::- dir; umask 000; touch dir/file; mkdir dir/below
        show dir dir/file dir/below; setfacl -d -m m::rx dir; touch dir/masked; show dir/masked
    """,
    "an ACL of bases alone is the mode": """
        touch file; setfacl --set u::rwx,g::r,o::- file; show file; setfacl --set u::rw,u:1001:r,g::r,o::r,m::r file; show file
        setfacl --set u::rw,g::-,o::- file; show file; getfattr -d -m - file
    """,
    "moving and linking keep the ACL": """
        mkdir from to; setfacl -d -m u:1001:rwx to; touch from/file; setfacl -m u:1002:r from/file
        mv from/file to/file; show to/file; ln to/file to/other; show to/other; mv to/file to/other; show to/other
    """,
    "setgid goes when one outside the group sets an ACL": """
        touch file; chown 1001:2000 file; chmod 2755 file; as 1001 setfacl -m u:1002:r file; show file
        touch more; chown 1001:2000 more; chmod 2755 more; in_group 1001 2000 setfacl -m u:1002:r more; show more
        touch root; chown 1001:2000 root; chmod 2755 root; setfacl -m u:1002:r root; show root
        mkdir dir; chown 1001:2000 dir; chmod 2775 dir; as 1001 setfacl -m u:1002:r dir; show dir
        as 1001 setfacl -d -m u:1002:r dir; show dir; chmod 2775 dir; as 1001 setfacl -d -m u:1003:r dir; show dir
    """,
    "below a directory with setgid": """
        mkdir dir; chown 0:2000 dir; chmod 2770 dir; setfacl -m g:2000:rwx,d:g:2000:rwx,d:o::- dir
        in_group 1001 2000 mkdir dir/below; in_group 1001 2000 touch dir/below/file; show dir/below dir/below/file
        in_group 1002 2000 sh -c 'echo x >> dir/below/file'; as 1003 cat dir/below/file
    """,
    "who may set an ACL": """
        touch file; chown 1001 file; as 1002 setfacl -m u:1002:rw file; as 1001 setfacl -m u:1002:rw file; show file
        as 1002 sh -c 'echo x > file'; as 1002 setfacl -b file; as 1001 setfacl -b file; as 1002 sh -c 'echo x > file'
        setfacl -d -m u:1001:r file; ln -s file link; setfacl -m u:1003:r link; show file
    """,
    "search permission of directories": """
        mkdir -p a/b; echo content > a/b/file; chmod 700 a; as 1001 cat a/b/file; setfacl -m u:1001:x a; as 1001 cat a/b/file
        as 1001 ls a; setfacl -m u:1001:- a; as 1001 cat a/b/file; setfacl -b a; as 1001 cat a/b/file
        chmod 711 a; as 1001 cat a/b/file; setfacl -m u:1001:- a; as 1001 cat a/b/file; as 1002 cat a/b/file
    """,
    "writing through an ACL takes setuid away": """
        cp /bin/true file; chmod 6755 file; setfacl -m u:1001:rwx file; show file; as 1001 sh -c 'echo x >> file'; show file
        chmod 6755 file; as 1001 sh -c ': > file'; show file
    """,
}


@pytest.mark.parametrize("scene", SCENES)
def test_acls_are_as_on_ext4(mounted: MountedVault, ext4: Path, scene: str) -> None:
    ours, theirs = (_played(root / scene.replace(" ", "-"), SCENES[scene]) for root in (mounted.path, ext4))
    assert ours == theirs


def _played(directory: Path, script: str) -> list[str]:
    directory.mkdir()
    directory.chmod(0o777)
    directory.parent.chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", PRELUDE + script],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.stdout.splitlines()
