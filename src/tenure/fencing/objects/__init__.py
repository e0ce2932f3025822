"""The guard of object stores that have the S3 API: one object carries the fence and what it protects.

Promises: raising and writing are each one conditional PUT, which succeeds only if the object is still the one that was
read and judged; so whatever a late PUT carries, it changes nothing once another one has. Does not promise anything of a
store that ignores conditions (it is refused), nor of whoever writes or deletes the object by other means.
"""
