"""A process that minds its own business: `victim.py UID`, two secrets on its standard input, then a question a line.

Anybody of its user may trace it: what keeps the attack out is not its own caution.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys

SET_DUMPABLE, SET_PTRACER, ANYBODY = 4, 0x59616D61, -1


def main() -> None:
    """Become the user, tell where the secrets are, answer."""
    uid = int(sys.argv[1])
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    library = ctypes.CDLL(None)
    library.prctl(SET_DUMPABLE, 1, 0, 0, 0)
    library.prctl(SET_PTRACER, ctypes.c_long(ANYBODY), 0, 0, 0)
    secret = ctypes.create_string_buffer(sys.stdin.readline().strip().encode())
    behind = os.memfd_create("secret")
    os.write(behind, sys.stdin.readline().strip().encode())
    told = {"address": ctypes.addressof(secret), "length": len(secret) - 1, "descriptor": behind}
    print(json.dumps(told), flush=True)
    for _ in sys.stdin:
        print("yes", flush=True)


main()
