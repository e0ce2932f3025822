"""The scenarios on a node of etcd."""
