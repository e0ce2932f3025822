"""The Django app: `INSTALLED_APPS = [..., "tenure.integrations.django"]`.

It brings the migration that makes the tables of fences, and a system check that misses them. The guard itself is
`tenure.fencing.django`.
"""
