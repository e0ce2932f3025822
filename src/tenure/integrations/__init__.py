"""What frameworks want of a package of theirs: an app, a check, a migration. Each imports its own framework alone."""
