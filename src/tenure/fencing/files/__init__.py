"""The guard of files: a file is replaced as a whole, by whom no later holder has overtaken.

Promises: at any instant, and after a crash at any instant, the file has its old content or its new one, and its fence
has not fallen. Does not promise anything on a network file system (refused where the system tells), of programs that
write the file without the guard, nor of a disk that forgets what it said it had written.
"""
