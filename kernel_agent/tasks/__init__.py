"""Tasks: generated pictures with a question and its one right answer. Needs no torch.

The reading task in a few lines:

    from kernel_agent.tasks.fonts import held_out_faces
    from kernel_agent.tasks.reading import draw_task

    task = draw_task(seed=7, index=0, faces=held_out_faces())   # task.image, task.question, task.answer
"""
