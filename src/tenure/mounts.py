"""Which file system a path lies on, and whether locks on it hold between all who see it.

Promises: reads the kernel's table of mounts, and changes nothing. Does not promise to see a network file system behind
a layer that hides it (a virtual machine's shared folder), nor anything where the system has no such table.
"""

from __future__ import annotations

from typing import Final, NamedTuple

REMOTE: Final = frozenset(
    {
        "9p", "acfs", "afs", "ceph", "cifs", "coda", "fuse.ceph", "fuse.davfs2", "fuse.gcsfuse", "fuse.glusterfs",
        "fuse.goofys", "fuse.juicefs", "fuse.mfs", "fuse.mount.davfs", "fuse.rclone", "fuse.s3fs", "fuse.smbnetfs",
        "fuse.sshfs", "fuse.weed", "gfs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2",
        "orangefs", "pvfs2", "smb3", "smbfs", "sshfs",
    }
)  # fmt: skip
"""File systems that several hosts mount: neither flock(2) nor shared memory reaches from one to another."""


class Mount(NamedTuple):
    """A mounted file system."""

    point: str
    kind: str


def mount_of(path: str, table: str = "/proc/self/mountinfo") -> Mount | None:
    """Find the mount that a real path lies on; None where the system does not tell.

    Source: proc(5), mountinfo: `36 35 98:0 /root /mount/point options [fields ...] - type source options`.
    """
    best: Mount | None = None
    try:
        with open(table, encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                left, _, right = line.partition(" - ")
                point = _unescaped(left.split(" ")[4])
                inside = path == point or path.startswith(point.rstrip("/") + "/")
                # Of two mounts on one point, the later one covers the earlier.
                if inside and (best is None or len(point) >= len(best.point)):
                    best = Mount(point, right.split(" ")[0])
    except (OSError, IndexError):
        return None
    return best


def _unescaped(point: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        point = point.replace(code, character)
    return point
