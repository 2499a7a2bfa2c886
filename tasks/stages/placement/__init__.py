"""Where a campaign's model work is done: in its own process, or by runners on other machines (execution.placement).

engine.py    what `auto` stands for, settled once for a whole campaign
calls.py     calls of stages as small objects in the store, taken under leases
runners.py   the campaign's side: checks the pools, starts runners, hands out calls, waits for results
ahead.py     calls that runners do beside others (execution.overlap)
pulling.py   the runner's side: takes calls until the campaign has ended
"""
