"""The guard of Redis: a fence is a key, and every step of the holder's is one script that compares it first.

Promises: no step is done once a later holder has raised the fence. Does not promise more than the server keeps: one
that loses acknowledged writes (a crash without `appendfsync always`, a fail-over) loses fences with its data.
"""
