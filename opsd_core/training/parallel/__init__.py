"""Training on several devices: one process for each, one launcher for all of them, files in and out.

together.py   what the processes do together: DDP and FSDP2       job.py       what they are given, and what they say
entry.py      where one of the processes begins                   launcher.py  starts them, listens, ends them
worker.py     what it does                                        items_file.py  training items as columns
"""
