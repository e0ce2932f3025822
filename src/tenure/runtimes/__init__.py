"""Where protocols run: blocking threads and asyncio. The simulated runtime is in `tenure.testing`."""
