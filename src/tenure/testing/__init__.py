"""For those who test tenure, or programs that hold leases: a simulated world, its faults, and checkers of histories.

Nothing here is imported by the rest of the package. `world` has virtual time, processes and tasks; `runtime` and
`network` the ports over it; `tables` the simulated engine's storage; `clients` the programs; `faults` what befalls
them; `history` what a run leaves behind; `checkers` what must be true of it; `simulate` the command line.
"""
