"""Uids for kernels, where the host is root."""

from __future__ import annotations

import os
import pwd
import subprocess

ASK = "from kernel_agent.provisioners.sandbox import users; a = users.lease(); print(a, flush=True); input()"


def test_each_lease_is_another_uid_also_in_another_process(python):
    with python.start("-c", ASK, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        one = first.stdout.readline().strip()
        with python.start("-c", ASK.replace("input()", "print(users.lease())"), stdout=subprocess.PIPE) as second:
            others = second.communicate()[0].split()
        first.communicate("\n")
    if python.uid is None and os.geteuid() == 0:
        assert len({one, *others}) == 3
        assert all(60578 <= int(uid) <= 61183 for uid in (one, *others))
        assert not {int(uid) for uid in (one, *others)} & {entry.pw_uid for entry in pwd.getpwall()}
    else:
        assert {one, *others} == {"None"}


def test_a_lease_given_back_can_be_had_again_and_all_of_them_run_out(python):
    code = """
import tempfile
from kernel_agent.errors import KernelError
from kernel_agent.provisioners.sandbox import users
users._FOLDERS = (tempfile.mkdtemp(),)  # locks of its own: other tests need ids in the same moment
if users.lease() is None:
    print("none")
else:
    got = []
    try:
        while True:
            got.append(users.lease())
    except KernelError as error:
        print(str(error))
    users.give_back(got[0]); users.give_back(got[0]); users.give_back(None)
    assert users.lease() == got[0]
"""
    done = python.run("-c", code)
    assert done.returncode == 0, done.stderr
    root = python.uid is None and os.geteuid() == 0
    assert ("in use by kernels" in done.stdout) if root else done.stdout == "none\n"
