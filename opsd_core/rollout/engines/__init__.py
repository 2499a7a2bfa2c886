"""What samples completions: one interface, one file per engine, one table (opsd_core/config/kinds/engines.py).

interface.py   what an engine is               own.py         opsd's sampler, in this process
kinds.py       the engine of a configuration   vllm.py        vLLM: settings, requests, answers
mismatch.py    what an engine recorded, held   environment.py what is installed in an environment of an engine's own
               against transformers            server.py, supervisor.py   its process, which never outlives this one
"""
