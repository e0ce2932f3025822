"""The algorithms, once: `async def`s that await only the ports. No clock, thread, socket or client library here."""
