"""The scenarios on a ZooKeeper server."""
