"""Attacks on a session's kernel and on the process that reads it, and who withstands them.

`python -m perf.attacks --json OUT` runs every case in every profile; `tests/attacks` runs the same cases under pytest.

::

    __main__.py   the command          case.py       what a case is, and the five results
    drive.py      the judge's end of   profiles.py   the ways a kernel is started
    serve.py      one host process     scene.py      one profile's sessions, and what is seen of them from outside
    table.py      the table in docs    world.py      canaries: files, listeners, a victim
    cases/        the attacks, by group

Each attack is written as a hostile model would write it. It is judged from the outside world wherever that can be done: a
listener that heard nothing, a file that is unchanged, a victim that lives, the host's own memory. Where only the
kernel's words are left, they are searched for the secret itself. A host process that dies or hangs counts as a claim
broken. What is claimed in no profile that runs is not run where it could hurt the machine.
"""
