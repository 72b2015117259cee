"""How kernels come to life: `jupyter_client` provisioners, found through entry points.

`codevision-local` starts an ordinary process without isolation. Sandboxed and forked kernels take its place behind the
same seam; `Session(provisioner=NAME)` chooses.
"""
