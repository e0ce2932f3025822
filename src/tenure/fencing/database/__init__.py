"""The guard of SQL databases: a fence is a row, compared and kept in the transaction that does the work.

Promises: what is committed under a guard was checked in its own transaction. Does not promise more than the database
keeps: one that loses committed transactions loses fences with its data.
"""
