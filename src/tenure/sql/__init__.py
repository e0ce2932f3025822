"""What lives in the user's own database: how its connections are spoken to, and the SQL that is sent.

Promises: no connection is made here and no table; importing this imports no driver. The statements are the `.sql` files
beside this one. Does not promise to hide the driver: its own errors pass unchanged, as 40001 does.
"""

from __future__ import annotations
