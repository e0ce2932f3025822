"""Fencing over HTTP: what a sender shows, what a server takes it for, and what it answers.

    Fencing-Token: "1795372291532495";floor="1795372291532495";resource="orders/42";authority="redis/app";seq="3"

Promises: a field that is not exactly this is refused and never read as "no fencing"; a lease that is lost sends
nothing; a refusal reaches the lease behind the request. Does not promise that anything is enforced by the field: a
server that compares it at the door has not compared it when a slow handler writes. Whoever writes compares, in its own
transaction.
"""
