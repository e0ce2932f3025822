"""The Redis engine against its peers and a bare client, on a server of our own; see ../README.md."""
