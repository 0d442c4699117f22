"""`make bench`: stock Airflow beside this stack, on the machines of `make up`.

| module | what it does |
| -- | -- |
| `__main__` | reads the command line, runs scenarios, writes results and documents |
| `machines` | the containers: size, core, counters, commands |
| `stock` | a machine that runs Airflow as its documentation starts it |
| `addresses` | lets this host speak to the edge from many addresses |
| `edge` | asks HAProxy for its servers, and takes some out |
| `lab` | puts these together, and restores everything |
| `load`, `player` | two load generators: h2load, and a client that plays what h2load cannot |
| `span` | what happened between two moments: CPU, memory, kills |
| `visit` | what a browser asks for, and its recording |
| `throughput`, `overload`, `faults`, `abuse` | the scenarios, and `scenarios` their list |
| `progress` | tells what is being measured |
| `results` | the file of results |
| `figures` | what has to be reached |
| `capacity`, `prices` | how many machines visitors need, and what these cost |
| `render`, `svg` | tables and plots |
"""
