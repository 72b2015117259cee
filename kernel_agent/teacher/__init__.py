"""The teacher: whole runs to imitate, made from tasks with ground truth (paper, section 4).

Metadata first: a `Plan` says which tools are used in which order, and what each step must give. Then each step is run by the
agent in a real kernel, and what came back is compared with the plan; a run that differs is dropped with the reason.
"""
