"""What importing a flow costs, beside importing the libraries that it is made of."""

import importlib
import json
import sys

from benchmarks.peers.clock import FIGURES, cost_of

IMPORTS = {"flows": ("flows.iterate",), "libraries": ("prefect", "torch")}


if __name__ == "__main__":
    cost = cost_of(lambda: [importlib.import_module(name) for name in IMPORTS[json.loads(sys.argv[1])["arm"]]])
    print(FIGURES + json.dumps({**cost._asdict(), "result": None, "tokens": 1, "value": 0.0}))
