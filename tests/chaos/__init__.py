"""`make chaos`: what visitors notice while machines and services of the running stack are lost.

| module | what it does |
| -- | -- |
| `__main__` | reads the command line, measures rows, writes results and documents |
| `rows` | which fault hits whom, and what has to be reached |
| `faults`, `slow` | the faults, and the ways back from them |
| `scene` | who has the address, who leads, which machines are in a zone |
| `visitors` | twenty visitors a second, and those who write and log in |
| `answers` | what their answers say: failures, and how long the site was away |
| `ledger` | what was acknowledged, and what the database has of it |
| `measure` | one row: visitors, fault, way back, `stackctl status`, ledger |
| `model` | when Patroni has to be ready again, by its settings |
| `render` | docs/resilience.md and the summary in README.md |
"""
